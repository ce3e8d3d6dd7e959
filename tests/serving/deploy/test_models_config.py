"""models_config: the files as the server reads them, and rules for labels."""

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)
from tensorflow_serving.config import model_server_config_pb2

from recdistill.errors import ConfigError
from recdistill.serving.deploy.models_config import (
    STABLE,
    Models,
    ServedModel,
    read_models,
    write_monitoring,
)


def parsed(models):
    """Models in the file, parsed with the server's message."""
    message = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(models.text, message)
    return message.model_config_list.config


@pytest.fixture
def films():
    return Models().with_model("films", "/models/films")


def test_a_new_model_loads_its_latest_version(films):
    (model,) = parsed(films)
    assert (model.name, model.base_path) == ("films", "/models/films")
    assert model.model_platform == "tensorflow"
    # No policy: the server's default, one version, the highest.
    assert not model.HasField("model_version_policy")
    assert films["films"] == ServedModel("films", "/models/films")


def test_exactly_the_labelled_versions_are_loaded(films):
    models = films.with_label("films", STABLE, 3).with_label("films", "canary", 4)
    (model,) = parsed(models)
    assert list(model.model_version_policy.specific.versions) == [3, 4]
    assert dict(model.version_labels) == {"stable": 3, "canary": 4}


def test_the_version_that_a_label_leaves_stays_loaded(films):
    models = films.with_label("films", STABLE, 3).with_versions("films", [3, 5])
    models = models.with_label("films", STABLE, 5)
    assert models["films"].labels == {"stable": 5}
    assert models["films"].versions == (3, 5)
    assert models["films"].standby == (3,)
    back = models.with_label("films", STABLE, 3)
    assert (back["films"].labels["stable"], back["films"].standby) == (3, (5,))


def test_the_version_of_an_earlier_move_is_unloaded(films):
    models = films.with_label("films", STABLE, 1)
    for version in (2, 3):
        loaded = {*models["films"].versions, version}
        models = models.with_versions("films", loaded)
        models = models.with_label("films", STABLE, version)
    assert models["films"].versions == (2, 3)


def test_a_label_cannot_move_to_a_version_that_is_not_loaded(films):
    models = films.with_label("films", STABLE, 3)
    with pytest.raises(ConfigError, match=r"loaded versions \[3\].*version=4"):
        models.with_label("films", STABLE, 4)


def test_moving_a_label_to_its_version_changes_nothing(films):
    models = films.with_label("films", STABLE, 3)
    assert models.with_label("films", STABLE, 3) == models


def test_labelled_versions_are_always_loaded(films):
    models = films.with_label("films", STABLE, 3).with_versions("films", [9])
    assert models["films"].versions == (3, 9)


def test_a_change_returns_a_new_object(films):
    films.with_label("films", STABLE, 3)
    assert films["films"].labels == {}


def test_other_models_and_settings_are_kept():
    models = Models(
        """
        model_config_list {
          config { name: "songs" base_path: "/songs" model_platform: "tensorflow" }
          config {
            name: "films" base_path: "/films" model_platform: "tensorflow"
            logging_config { sampling_config { sampling_rate: 0.5 } }
          }
        }
        """
    ).with_label("films", STABLE, 1)
    songs, films = parsed(models)
    assert models.names == ("songs", "films")
    assert not songs.version_labels
    assert films.logging_config.sampling_config.sampling_rate == 0.5


def test_a_file_is_read_back_and_leaves_no_other_file(films, tmp_path):
    path = tmp_path / "models.config"
    models = films.with_label("films", STABLE, 2**40)
    models.write(path)
    assert read_models(path) == models
    assert [p.name for p in tmp_path.iterdir()] == ["models.config"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["songs"], r"one of \['films'\].*name='songs'"),
        (lambda m: m.with_model("", "/m"), "name=''"),
        (lambda m: m.with_model("a/b", "/m"), "name='a/b'"),
        (lambda m: m.with_model("songs", "models/songs"), "absolute.*'models/songs'"),
        (lambda m: m.with_versions("films", []), "at least one.*none"),
        (lambda m: m.with_versions("films", [0]), "version=0"),
        (lambda m: m.with_label("films", "", 1), "label=''"),
        (lambda m: m.with_label("films", STABLE, 2**63), f"version={2**63}"),
    ],
)
def test_values_that_the_server_rejects_are_refused(films, change, message):
    with pytest.raises(ConfigError, match=message):
        change(films)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list { config { nam: 'x' } }", "text format"),
        ("custom_model_config { }", "custom_model_config"),
        ("model_config_list { config { name: 'x' base_path: 'x' } }", "absolute"),
        (
            "model_config_list { config { name: 'x' base_path: '/x' } "
            "config { name: 'x' base_path: '/y' } }",
            "'x' 2 times",
        ),
    ],
)
def test_a_file_that_the_server_rejects_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Models(text)


def monitoring_message():
    """An empty `tensorflow.serving.MonitoringConfig`, declared as in the server."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="monitoring.proto", package="t", syntax="proto3"
    )
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=kinds.TYPE_BOOL, label=1)
    prometheus.field.add(name="path", number=2, type=kinds.TYPE_STRING, label=1)
    file.message_type.add(name="MonitoringConfig").field.add(
        name="prometheus_config",
        number=1,
        type=kinds.TYPE_MESSAGE,
        label=1,
        type_name=".t.PrometheusConfig",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("t.MonitoringConfig")
    return message_factory.GetMessageClass(found)()


def test_monitoring_config_enables_the_metrics_page(tmp_path):
    write_monitoring(tmp_path / "monitoring.config")
    message = monitoring_message()
    text_format.Parse((tmp_path / "monitoring.config").read_text(), message)
    assert message.prometheus_config.enable
    assert message.prometheus_config.path == "/monitoring/prometheus/metrics"
