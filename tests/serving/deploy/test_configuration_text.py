"""configuration_text: what cannot be read is an error, and never a wait."""

import os

import pytest

from recdistill.errors import ConfigError
from recdistill.serving.deploy.batching_config import read_batching
from recdistill.serving.deploy.models_config import read_models


@pytest.mark.parametrize(
    ("read", "name"),
    [(read_models, "models.config"), (read_batching, "batching.config")],
)
class TestFilesThatCannotBeRead:
    def test_a_pipe_and_a_folder_are_refused(self, tmp_path, read, name):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", tmp_path):
            with pytest.raises(ConfigError, match=f"`{name}` must be a file"):
                read(path)

    def test_bytes_that_are_not_text_are_refused(self, tmp_path, read, name):
        (tmp_path / "file").write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match=f"`{name}` must be text in UTF-8"):
            read(tmp_path / "file")

    def test_another_message_is_refused(self, tmp_path, read, name):
        (tmp_path / "file").write_text("colour: 1")
        with pytest.raises(ConfigError, match=f"`{name}` must be .*colour"):
            read(tmp_path / "file")

    def test_a_missing_file_is_named(self, tmp_path, read, name):
        with pytest.raises(FileNotFoundError, match="missing"):
            read(tmp_path / "missing")
