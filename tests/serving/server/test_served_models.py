"""served_models: labels, and reconfiguration of a running server."""

import pytest

from recdistill.errors import ServeError
from tests.serving.calls import refused
from tests.serving.waiting import wait_until
from tests.small_models import publish_toy, toy_config

pytestmark = pytest.mark.slow


@pytest.fixture
def base(tmp_path):
    return tmp_path / "models" / "toy"


class TestLabels:
    def test_labels_fail_at_a_cold_start(self, serve, base):
        with pytest.raises(ServeError, match="not currently available for inference"):
            serve(toy_config(base, {"stable": 1}))

    def test_labels_for_unavailable_versions_can_be_allowed(self, serve, base):
        config = toy_config(base, {"stable": 1, "canary": 2}, versions=[1, 2])
        serving = serve(config, versions=(1, 2), labels_for_unavailable=True)
        for label, number in (("stable", 1), ("canary", 2)):
            outputs, version = serving.client.predict(x=[0.0], label=label)
            assert (outputs["y"], version) == ([number], number)
            status, document = serving.client.rest(
                {"inputs": [0.0]}, where=f"/labels/{label}"
            )
            assert (status, document) == (200, {"outputs": [number]})

    def test_an_unknown_label_is_a_bad_request(self, serve):
        serving = serve()
        with refused("INVALID_ARGUMENT") as error:
            serving.client.predict(x=[0.0], label="nowhere")
        assert error["details"] == "Unrecognized servable version label: nowhere"
        assert serving.client.rest({"inputs": [0.0]}, where="/labels/nowhere")[0] == 400

    def test_a_label_of_a_missing_version_is_not_found(self, serve, base):
        config = toy_config(base, {"stable": 7})
        serving = serve(config, labels_for_unavailable=True)
        with refused("NOT_FOUND") as error:
            serving.client.predict(x=[0.0], label="stable")
        assert error["details"].endswith("Specific(toy, 7)")

    def test_a_label_moves_to_a_loaded_version(self, serve, base):
        serving = serve(toy_config(base, versions=[1, 2]), versions=(1, 2))
        for number in (1, 2, 1):
            config = toy_config(base, {"stable": number}, versions=[1, 2])
            serving.client.reload(config)
            assert serving.client.predict(x=[0.0], label="stable")[1] == number

    @pytest.mark.parametrize("lenient", [False, True])
    def test_a_label_does_not_move_to_a_version_that_is_not_loaded(
        self, serve, base, lenient
    ):
        config = toy_config(base, {"stable": 1}, versions=[1])
        serving = serve(toy_config(base), labels_for_unavailable=lenient)
        serving.client.reload(config)
        moved = toy_config(base, {"stable": 2}, versions=[1, 2])
        with refused("FAILED_PRECONDITION") as error:
            serving.client.reload(moved)
        assert "version 2 of model toy" in error["details"]
        assert serving.client.predict(x=[0.0], label="stable")[1] == 1


class TestConfigurations:
    def test_models_are_added_and_removed_at_run_time(self, serve, base):
        serving = serve()
        other = base.parent / "other"
        other.mkdir()
        publish_toy(other, 5)
        both = toy_config(base)
        both.MergeFrom(toy_config(other, name="other"))
        serving.client.reload(both)
        # The model is loaded before the request is answered.
        assert serving.client.predict(x=[0.0], model="other")[1] == 5
        serving.client.reload(toy_config(base))
        with refused("NOT_FOUND"):
            serving.client.predict(x=[0.0], model="other")

    def test_a_configuration_with_a_broken_model_changes_nothing(self, serve, base):
        serving = serve()
        broken = toy_config(base, {"stable": 1})
        broken.MergeFrom(toy_config(base.parent / "nothing", name="other"))
        with refused("UNKNOWN") as error:
            serving.client.reload(broken)
        assert "'other' must have versions" in error["details"]
        assert serving.client.predict(x=[0.0])[1] == 1
        with refused("INVALID_ARGUMENT"):
            serving.client.predict(x=[0.0], label="stable")

    def test_a_request_cannot_name_folders_elsewhere(self, serve, base, tmp_path):
        serving = serve()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        publish_toy(elsewhere, 1)
        for path in (elsewhere, base / ".." / ".." / "elsewhere"):
            with refused("PERMISSION_DENIED") as error:
                serving.client.reload(toy_config(path))
            assert "base_path of 'toy' must be next to" in error["details"]
        link = base.parent / "link"
        link.symlink_to(elsewhere)
        with refused("PERMISSION_DENIED"):
            serving.client.reload(toy_config(link))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": ""}, "name of a model must be unique, not empty"),
            ({"name": "a/b"}, "without '/'"),
            ({"base_path": "models/toy"}, "PERMISSION_DENIED"),
            ({"model_platform": "torch"}, "must be 'tensorflow'"),
            ({"model_platform": ""}, "must be 'tensorflow'"),
        ],
    )
    def test_an_invalid_configuration_is_rejected(self, serve, base, change, message):
        serving = serve()
        config = toy_config(base)
        for name, value in change.items():
            setattr(config.model_config_list.config[0], name, value)
        code = message if message.isupper() else "INVALID_ARGUMENT"
        with refused(code) as error:
            serving.client.reload(config)
        assert message.isupper() or message in error["details"]

    def test_a_relative_folder_in_the_file_is_an_error(self, serve):
        with pytest.raises(ServeError, match="must be absolute"):
            serve(toy_config("models/toy"))

    def test_the_server_does_not_start_with_an_invalid_file(self, serve):
        with pytest.raises(ServeError, match="ModelServerConfig in text form"):
            serve("model_config_list: {{")

    def test_a_changed_file_is_applied_and_a_broken_one_is_ignored(
        self, serve, base, caplog
    ):
        serving = serve(toy_config(base, versions=[1]), (1, 2), models_poll_s=0.02)
        serving.file.write_text("broken {", encoding="utf-8")
        wait_until(lambda: "in text form" in caplog.text)
        assert serving.client.predict(x=[0.0])[1] == 1
        config = toy_config(base, {"stable": 2}, versions=[1, 2])
        # Its label names a version that is not loaded, so the file is rejected.
        serving.file.write_text(str(config), encoding="utf-8")
        wait_until(lambda: "not currently available" in caplog.text)
        assert set(serving.client.status()) == {1}
        serving.file.write_text(
            str(toy_config(base, versions=[1, 2])), encoding="utf-8"
        )
        serving.wait_for(2)


def test_the_status_of_an_unknown_model_or_version_is_not_found(shared):
    with refused("NOT_FOUND") as error:
        shared.client.status(model="nowhere")
    assert error["details"] == "Could not find any versions of model nowhere"
    with refused("NOT_FOUND") as error:
        shared.client.status(version=9)
    assert error["details"] == "Could not find version 9 of model toy"
