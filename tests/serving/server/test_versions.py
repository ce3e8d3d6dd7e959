"""versions: which versions in a folder are served, as in TensorFlow Serving."""

import shutil

import numpy as np
import pytest

from recdistill.errors import ServeError
from recdistill.serving.server.versions import Prediction
from tests.serving.calls import predict_request, refused
from tests.serving.waiting import wait_until
from tests.small_models import saved_toy, toy_config

pytestmark = pytest.mark.slow


def first(serving):
    """The answer to 0, which is the number of the exported version."""
    outputs, version = serving.client.predict(x=[0.0])
    return float(outputs["y"][0]), version


class TestNewVersions:
    def test_a_new_version_replaces_the_old_one(self, serve):
        serving = serve()
        assert first(serving) == (1.0, 1)
        serving.publish(2)
        serving.wait_for(1, "END")
        assert first(serving) == (2.0, 2)
        assert serving.client.status() == {2: "AVAILABLE", 1: "END"}

    def test_the_old_version_is_served_until_the_new_one_is(self, serve):
        serving = serve()
        serving.publish(2)
        seen = set()
        while (2.0, 2) not in seen:
            seen.add(first(serving))
        assert seen <= {(1.0, 1), (2.0, 2)}

    def test_folders_whose_names_are_not_numbers_are_ignored(self, serve):
        serving = serve()
        for name in (".hidden-2", "v3", "4a", "-5", "6.0", "\u0667"):
            shutil.copytree(saved_toy(2), serving.base / name)
        (serving.base / "8").write_text("a file")
        serving.publish(2)
        serving.wait_for(2)
        assert set(serving.client.status()) == {1, 2}

    def test_overwriting_a_live_version_does_nothing(self, serve):
        serving = serve()
        shutil.copytree(saved_toy(2), serving.base / "1", dirs_exist_ok=True)
        serving.publish(3)
        serving.wait_for(3)
        assert first(serving) == (3.0, 3)
        serving.client.reload(toy_config(serving.base, versions=[1]))
        serving.wait_for(1)
        assert first(serving) == (2.0, 1)  # A new load reads the new files.

    def test_symbolic_links_work(self, serve):
        serving = serve()
        (serving.base / "2").symlink_to(saved_toy(2))
        serving.wait_for(2)
        assert first(serving) == (2.0, 2)

    def test_removing_all_versions_unloads_the_model(self, serve):
        serving = serve()
        shutil.rmtree(serving.base / "1")
        serving.wait_for(1, "END")
        with refused("NOT_FOUND") as error:
            serving.client.predict(x=[0.0])
        assert error["details"] == "Servable not found for request: Latest(toy)"
        assert serving.client.rest({"inputs": [0.0]})[0] == 404
        serving.publish(1)
        serving.wait_for(1)
        assert first(serving) == (1.0, 1)

    def test_removing_the_latest_version_restores_the_previous_one(self, serve):
        serving = serve(versions=(1, 2))
        assert first(serving) == (2.0, 2)
        shutil.rmtree(serving.base / "2")
        serving.wait_for(2, "END")
        assert first(serving) == (1.0, 1)

    def test_a_folder_without_variables_replaces_the_good_version(self, serve):
        serving = serve()
        staging = serving.base / ".staging"
        shutil.copytree(saved_toy(2), staging, ignore=lambda *_: ["variables"])
        staging.rename(serving.base / "2")
        serving.wait_for(1, "END")
        assert serving.client.status()[2] == "AVAILABLE"
        for _ in range(2):
            with refused("FAILED_PRECONDITION"):
                serving.client.predict(x=[0.0])
            # Adding the files later has no effect.
            shutil.copytree(saved_toy(2), serving.base / "2", dirs_exist_ok=True)


class TestVersionPolicy:
    def test_the_two_latest_versions_are_served(self, serve, tmp_path):
        config = toy_config(tmp_path / "models" / "toy", latest=2)
        serving = serve(config, versions=(1, 2, 10))
        assert set(serving.client.status()) == {2, 10}
        assert serving.client.predict(x=[0.0], version=2)[1] == 2

    def test_all_versions_are_served(self, serve, tmp_path):
        config = toy_config(tmp_path / "models" / "toy", every=True)
        assert set(serve(config, versions=(1, 3)).client.status()) == {1, 3}

    def test_specific_versions_are_served(self, serve, tmp_path):
        config = toy_config(tmp_path / "models" / "toy", versions=[1])
        serving = serve(config, versions=(1, 2))
        assert serving.client.status() == {1: "AVAILABLE"}
        serving.client.reload(toy_config(serving.base, versions=[1, 2]))
        serving.wait_for(2)
        assert serving.client.predict(x=[0.0], version=1)[1] == 1


class TestFailedLoads:
    def test_the_server_does_not_start_if_the_first_version_fails(
        self, serve, tmp_path
    ):
        folder = tmp_path / "models" / "toy" / "1"
        folder.mkdir(parents=True)
        with pytest.raises(ServeError, match=r"'toy' must have versions .*version 1:"):
            serve(versions=())

    def test_the_server_does_not_start_without_a_version(self, serve):
        with pytest.raises(ServeError, match=r"Received: none"):
            serve(versions=())

    def test_a_later_version_is_retried_while_the_old_one_is_served(self, serve):
        serving = serve(load_retries=1000, load_retry_s=0.05)
        (serving.base / "2").mkdir()
        serving.wait_for_error(2)
        assert serving.client.status() == {2: "LOADING", 1: "AVAILABLE"}
        assert first(serving) == (1.0, 1)
        shutil.copytree(saved_toy(2), serving.base / "2", dirs_exist_ok=True)
        serving.wait_for(1, "END")
        assert first(serving) == (2.0, 2)

    def test_after_the_last_retry_the_status_has_the_error(self, serve):
        serving = serve(load_retries=2, load_retry_s=0.01)
        (serving.base / "2").mkdir()
        serving.wait_for(2, "END")
        status, text = serving.client.http("GET", "/v1/models/toy/versions/2")
        assert (status, '"state": "END"' in text) == (200, True)
        assert (
            '"error_code": "INTERNAL"' in text
            and "cannot be loaded as a SavedModel" in text
        )
        assert serving.server.models._models["toy"].versions[2].failures == 3
        assert first(serving) == (1.0, 1)


class TestWarmUp:
    @pytest.mark.parametrize(
        "broken",
        [
            [predict_request(x=[1.0], z=[1.0])],
            [predict_request(z=[1.0])],
            [predict_request()],
            [predict_request("nowhere", x=[1.0])],
            [predict_request(x=np.array([1], "int64"))],
            [predict_request("checked", n=[-1])],
            [predict_request(x=[1.0]), b"no PredictionLog \xff"],
            b"this is no file of records",
            [predict_request(x=[1.0])] * 1_001,
        ],
        ids=[
            "an extra input",
            "a wrong input",
            "a missing input",
            "an unknown signature",
            "a wrong type",
            "a runtime error",
            "a broken record",
            "a broken file",
            "more than 1,000 records",
        ],
    )
    def test_a_broken_warm_up_keeps_the_old_version(self, serve, broken):
        serving = serve(load_retries=0)
        serving.publish(2, warm_up=broken)
        error = serving.wait_for_error(2)
        assert "arm" in error.message or "record" in error.message.lower()
        serving.wait_for(2, "END")
        assert first(serving) == (1.0, 1)

    @pytest.mark.parametrize(
        "harmless",
        [
            b"",
            [b"", predict_request(x=[1.0])],
            [predict_request(x=[1.0], model="another")],
            [predict_request(x=[1.0])] * 1_000,
        ],
        ids=["an empty file", "an empty record", "a wrong model name", "1,000 records"],
    )
    def test_a_harmless_warm_up_passes(self, serve, harmless):
        serving = serve()
        serving.publish(2, warm_up=harmless)
        serving.wait_for(1, "END")
        assert first(serving) == (2.0, 2)

    def test_warm_up_requests_are_run(self, serve):
        serving = serve()
        serving.publish(2, warm_up=[predict_request("described", **DESCRIBED)])
        serving.wait_for(2)
        model = serving.server.models._models["toy"].versions[2].model
        assert list(model._calls) == [("described", ("ids", "raw_bytes", "wide"))]


DESCRIBED = {"ids": [["a", "b"]], "scale": [1.0]}


def test_a_version_in_use_is_not_unloaded(serve):
    serving = serve()
    spec = predict_request(version=1).model_spec
    with serving.server.models.use(spec) as version:
        serving.publish(2)
        serving.wait_for(1, "UNLOADING")
        prediction = Prediction(version.signature(""), [np.float32([0])], ("y",))
        [answer] = version.answer(prediction)
        assert answer == [1.0]
        with refused("NOT_FOUND"):
            serving.client.predict(x=[0.0], version=1)
    serving.wait_for(1, "END")


def test_unloading_frees_the_session(serve):
    serving = serve()
    model = serving.server.models._models["toy"].versions[1]
    session = model.model._session
    serving.publish(2)
    serving.wait_for(1, "END")
    with pytest.raises(RuntimeError, match="closed"):
        session.run("serving_default_x:0")
    wait_until(lambda: model._model is None)
