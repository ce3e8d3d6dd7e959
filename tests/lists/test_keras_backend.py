"""keras_backend: only TensorFlow is accepted, and where another one is set."""

import sys
from types import SimpleNamespace

import pytest

from recdistill.errors import BackendError
from recdistill.lists.keras_backend import check_keras_backend


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A process without a setting, in which Keras is not imported."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))


def test_tensorflow_is_the_default():
    check_keras_backend()


def test_the_environment_variable_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(BackendError, match=r"'jax' from the environment variable"):
        check_keras_backend()
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    check_keras_backend()


def test_the_settings_file_of_keras_is_read(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    with pytest.raises(ImportError, match=r"'torch' from the file .*keras\.json"):
        check_keras_backend()
    (tmp_path / "keras.json").write_text("{")
    check_keras_backend()


def test_an_imported_keras_keeps_its_backend(monkeypatch):
    config = SimpleNamespace(backend=lambda: "jax")
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(config=config))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(BackendError, match="'jax' from the Keras that is already"):
        check_keras_backend()
