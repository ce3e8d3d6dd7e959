"""External models of each kind: inputs, scores and errors."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.errors import TeacherError
from recdistill.teachers import (
    Booster,
    ExternalTeacher,
    Function,
    InputSpec,
    KerasModel,
    SavedModel,
    TfKerasModel,
)
from recdistill.teachers.model_files import digest, size_of, source_digest
from tests.pipeline import outside

pytestmark = pytest.mark.slow


def pairs(**more):
    text = {"segment": ["s01", "s02", "s07"], "kind": ["c01", "c05", "c07"]}
    arrays = {name: np.array(values, object) for name, values in text.items()}
    return {**arrays, "quality": np.array([0.5, -1.0, 2.0], "float32"), **more}


def scored(model, values):
    """Scores of one list by a teacher, whose candidates have the feature `x`."""
    mask = np.ones((1, len(values)), bool)
    batch = {"raw": {}, "candidate_index": np.arange(len(values)), "mask": mask}
    return ExternalTeacher(model, [], {"x": values})(batch)


WANT = [2.0, -2.0, 5.0]


class TestKeras:
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory):
        path = tmp_path_factory.mktemp("keras") / "ranker.keras"
        outside.save_keras(path)
        return path

    def test_inputs_are_declared_and_scores_are_right(self, path):
        model = KerasModel.load(path)
        assert model.inputs == {
            "segment": InputSpec("string", (None, 1)),
            "kind": InputSpec("string", (None, 1)),
            "quality": InputSpec("float32", (None, 1)),
        }
        inputs = {name: value[:, None] for name, value in pairs().items()}
        np.testing.assert_allclose(model.predict(inputs)[:, 0], WANT, rtol=1e-6)

    def test_inputs_in_a_dict_are_named_by_their_keys(self):
        inputs = {name: keras.Input((), name=name) for name in "ba"}
        model = KerasModel(keras.Model(inputs, inputs["a"] - inputs["b"]))
        assert set(model.inputs) == {"a", "b"}
        inputs = {"b": np.ones(2, "float32"), "a": np.full(2, 5.0, "float32")}
        assert model.predict(inputs).tolist() == [4.0, 4.0]

    def test_a_sequential_model_is_named_by_its_input(self):
        layers = [keras.Input((1,), name="x"), keras.layers.Dense(1)]
        assert KerasModel(keras.Sequential(layers)).inputs == {
            "x": InputSpec("float32", (None, 1))
        }

    def test_a_dict_of_dicts_is_an_error(self):
        x, y = keras.Input((1,), name="x"), keras.Input((1,), name="y")
        model = keras.Model({"query": {"x": x}, "y": y}, x + y)
        with pytest.raises(TeacherError, match=r"without dicts inside.*'query'"):
            KerasModel(model)

    def test_one_of_several_outputs_is_chosen_by_name(self):
        x = keras.Input((), name="x")
        model = keras.Model([x], {"score": x * 2, "other": x})
        inputs = {"x": np.array([3.0], "float32")}
        assert KerasModel(model, "score").predict(inputs).tolist() == [6.0]
        with pytest.raises(TeacherError, match=r"other, score. Received: None"):
            KerasModel(model).predict(inputs)

    def test_one_of_a_list_of_outputs_is_chosen_by_its_layer(self):
        x = keras.Input((1,), name="x")
        click = keras.layers.Rescaling(2.0, name="click")(x)
        order = keras.layers.Rescaling(3.0, name="order")(x)
        model = keras.Model([x], [click, order])
        inputs = {"x": np.array([[5.0]], "float32")}
        assert KerasModel(model, "order").predict(inputs).tolist() == [[15.0]]
        with pytest.raises(TeacherError, match=r"click, order. Received: None"):
            KerasModel(model).predict(inputs)

    def test_the_outputs_of_a_subclass_have_numbers(self):
        class Own(keras.Model):
            def call(self, inputs):
                return inputs["x"], -inputs["x"]

        inputs = {"x": np.ones(2, "float32")}
        assert KerasModel(Own(), "1").predict(inputs).tolist() == [-1.0, -1.0]
        with pytest.raises(TeacherError, match=r"0, 1. Received: 'click'"):
            KerasModel(Own(), "click").predict(inputs)

    def test_a_subclass_does_not_declare_its_inputs(self):
        class Own(keras.Model):
            def call(self, inputs, training=True):
                return inputs["x"] + (100.0 if training else 0.0)

        model = KerasModel(Own())
        assert model.inputs is None
        assert model.parameters is None
        assert model.predict({"x": np.ones(2, "float32")}).tolist() == [1.0, 1.0]

    def test_modules_define_the_custom_layers_of_a_file(self, tmp_path, monkeypatch):
        (tmp_path / "their_layers.py").write_text(
            "import keras\n"
            "@keras.saving.register_keras_serializable('their')\n"
            "class Twice(keras.layers.Layer):\n"
            "    def call(self, x):\n"
            "        return 2.0 * x\n"
        )
        monkeypatch.chdir(tmp_path)
        save = (
            "import keras, their_layers\n"
            "x = keras.Input((), name='x')\n"
            "keras.Model([x], their_layers.Twice()(x)).save('custom.keras')\n"
        )
        subprocess.run([sys.executable, "-c", save], check=True, cwd=tmp_path)
        message = r"`teacher.modules` must .* \['their_layers'\].* register their>Twice"
        with pytest.raises(TeacherError, match=message):
            KerasModel.load(tmp_path / "custom.keras")
        with pytest.raises(TeacherError, match="`no_such_layers` must be importable"):
            KerasModel.load(tmp_path / "custom.keras", modules=["no_such_layers"])
        model = KerasModel.load(tmp_path / "custom.keras", modules=["their_layers"])
        assert model.predict({"x": np.array([3.0], "float32")}).tolist() == [6.0]

    def test_a_file_with_code_is_an_error(self, tmp_path):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: x)])
        model.save(tmp_path / "unsafe.keras")
        with pytest.raises(TeacherError, match="loads in safe mode") as caught:
            KerasModel.load(tmp_path / "unsafe.keras")
        assert "unsafe.keras" in str(caught.value)
        assert "kind 'callable'" in str(caught.value)

    def test_another_file_type_is_an_error_naming_its_kind(self, tmp_path):
        (tmp_path / "old.h5").write_bytes(b"")
        with pytest.raises(TeacherError, match=r"an .h5 file .* has kind 'tf_keras'"):
            KerasModel.load(tmp_path / "old.h5")
        with pytest.raises(TeacherError, match="which does not exist"):
            KerasModel.load(tmp_path / "none.keras")


class TestSavedModel:
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory):
        path = tmp_path_factory.mktemp("saved") / "1"
        outside.save_saved_model(path)
        return path

    def test_inputs_are_declared_and_scores_are_right(self, path):
        model = SavedModel(path, "rank", "score")
        assert model.inputs == {
            "segment": InputSpec("string", (None,)),
            "category": InputSpec("string", (None,)),
            "q": InputSpec("float64", (None,)),
        }
        inputs = pairs()
        inputs = {
            "segment": inputs["segment"],
            "category": inputs["kind"],
            "q": inputs["quality"].astype("float64"),
        }
        np.testing.assert_allclose(model.predict(inputs), WANT)
        assert model.size_bytes > 1_000

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["serve"],
                "`teacher.signature` must be one of .* rank. Received: 'serve'",
            ),
            (["rank"], "`teacher.output` must name .* other, score. Received: None"),
            (["rank", "scores"], "other, score. Received: 'scores'"),
        ],
    )
    def test_a_missing_signature_or_output_is_named_with_those_that_exist(
        self, path, arguments, message
    ):
        with pytest.raises(TeacherError, match=message):
            SavedModel(path, *arguments)

    def test_another_folder_is_an_error(self, tmp_path):
        with pytest.raises(TeacherError, match="must be a SavedModel that TensorFlow"):
            SavedModel(tmp_path)
        with pytest.raises(TeacherError, match="which does not exist"):
            SavedModel(tmp_path / "none")

    def test_serialized_examples_are_written_from_the_features(self, tmp_path):
        spec = {
            "price": tf.io.FixedLenFeature([], tf.float32, 7.0),
            "user": tf.io.FixedLenFeature([], tf.string),
            "seen": tf.io.VarLenFeature(tf.int64),
            "tags": tf.io.RaggedFeature(tf.string),
        }

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
        def score(examples):
            x = tf.io.parse_example(examples, spec)
            seen = tf.sparse.reduce_sum(x["seen"], axis=1)
            width = tf.cast(tf.strings.length(x["user"]), tf.float32)
            tags = tf.cast(x["tags"].row_lengths(), tf.float32)
            seen = tf.cast(seen, tf.float32)
            return {"score": x["price"] + 100.0 * width + 0.1 * seen + 0.01 * tags}

        tf.saved_model.save(tf.Module(), str(tmp_path), signatures=score)
        model = SavedModel(tmp_path)
        assert model.inputs == {
            "price": InputSpec("float32", (None,)),
            "user": InputSpec("string", (None,)),
            "seen": InputSpec("int64", (None, None), ragged=True),
            "tags": InputSpec("string", (None, None), ragged=True),
        }
        raw = {
            "user": np.array(["ü", "ann"], object),
            "seen": np.array([["3", "4"], ["5", ""]], object),
        }
        candidates = {
            "price": np.array([1.0, np.nan], "float32"),
            "tags": np.array([["a", "b"], ["c", ""]], object),
        }
        teacher = ExternalTeacher(model, ["user", "seen"], candidates)
        batch = {"raw": raw, "candidate_index": np.arange(2)}
        scores = teacher({**batch, "mask": np.ones((2, 2), bool)})
        # A missing price has the default of the model, 7.
        want = [[200 + 1 + 0.7 + 0.02, 200 + 7 + 0.7 + 0.01]]
        want += [[300 + 1 + 0.5 + 0.02, 300 + 7 + 0.5 + 0.01]]
        np.testing.assert_allclose(scores, want, rtol=1e-5)
        with pytest.raises(TeacherError, match=r"`examples` takes tf.train.Example"):
            ExternalTeacher(model, ["user"], {}, inputs={"examples": "user"})

    def test_ragged_inputs_and_a_fixed_number_of_rows_are_supported(self, tmp_path):
        ragged = tf.RaggedTensorSpec([None, None], tf.int64, ragged_rank=1)

        @tf.function(input_signature=[ragged, tf.TensorSpec([None], tf.float32, "x")])
        def summed(past, x):
            return {"score": x + tf.cast(tf.reduce_sum(past, axis=1), tf.float32)}

        @tf.function(input_signature=[tf.TensorSpec([4], tf.float32, "x")])
        def four(x):
            return {"score": 2.0 * x}

        signatures = {"summed": summed, "four": four}
        tf.saved_model.save(tf.Module(), str(tmp_path), signatures=signatures)
        values = np.arange(6, dtype="float32")
        np.testing.assert_allclose(
            scored(SavedModel(tmp_path, "four"), values), [2.0 * values]
        )
        teacher = ExternalTeacher(
            SavedModel(tmp_path, "summed"), ["past"], {"x": values[:2]}
        )
        past = np.array([["10", "20", ""], ["", "", ""]], object)
        batch = {"raw": {"past": past}, "candidate_index": np.arange(2)}
        scores = teacher({**batch, "mask": np.ones((2, 2), bool)})
        np.testing.assert_allclose(scores, [[30.0, 31.0], [0.0, 1.0]])
        flat = SavedModel(tmp_path, "summed", named=["past", "past_1", "x"])
        assert set(flat.inputs) == {"past", "past_1", "x"}

    def test_an_error_of_the_graph_names_the_teacher(self, tmp_path):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "x")])
        def broken(x):
            return {"y": tf.strings.to_number(x)}

        tf.saved_model.save(tf.Module(), str(tmp_path), signatures=broken)
        with pytest.raises(TeacherError, match=r"The teacher SavedModel .* failed"):
            scored(SavedModel(tmp_path), np.array(["no"], object))


class TestBooster:
    @pytest.fixture
    def path(self, tmp_path):
        lightgbm = pytest.importorskip("lightgbm")
        pd = pytest.importorskip("pandas")
        frame = pd.DataFrame(
            {
                "kind": pd.Categorical(["a", "b", "c"] * 8, categories=["c", "a", "b"]),
                "size": np.arange(24) % 4,
            }
        )
        label = (frame.kind == "b") * 10.0 + frame["size"]
        data = lightgbm.Dataset(frame, label)
        settings = {"verbose": -1, "min_data_in_leaf": 1, "num_threads": 1}
        settings |= {"min_data_per_group": 1, "cat_smooth": 0.0}
        booster = lightgbm.train(settings, data, num_boost_round=30)
        booster.save_model(tmp_path / "model.txt")
        self.frame, self.booster = frame, booster
        return tmp_path / "model.txt"

    def test_categories_get_their_codes_from_training(self, path):
        model = Booster(path, ["kind"])
        assert model.inputs == {
            "kind": InputSpec("string", (None,)),
            "size": InputSpec("float64", (None,)),
        }
        inputs = {"size": np.arange(24) % 4, "kind": self.frame.kind.to_numpy(object)}
        want = self.booster.predict(self.frame)
        np.testing.assert_allclose(model.predict(inputs), want)
        assert want[1] > want[0] + 5

    def test_unseen_categories_and_missing_numbers_are_nan(self, path):
        model = Booster(path, ["kind"])
        inputs = {"kind": np.array(["z", "a"], object), "size": np.array([1.0, np.nan])}
        coded = np.array([[np.nan, 1.0], [1.0, np.nan]])
        np.testing.assert_allclose(model.predict(inputs), self.booster.predict(coded))

    @pytest.mark.parametrize("categorical", [[], ["size", "kind"], ["colour"]])
    def test_categories_that_do_not_match_the_file_are_an_error(
        self, path, categorical
    ):
        with pytest.raises(TeacherError, match=r"name the 1 feature.* kind, size"):
            Booster(path, categorical)

    def test_categories_have_the_text_of_raw_values(self, path):
        text = path.read_text()
        assert '["c", "a", "b"]' in text
        path.write_text(text.replace('["c", "a", "b"]', "[1.0, 2.5, true]"))
        model = Booster(path, ["kind"])
        inputs = {"kind": np.array(["1", "2.5", "true"], object), "size": np.zeros(3)}
        coded = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
        np.testing.assert_allclose(model.predict(inputs), self.booster.predict(coded))

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("end of trees", "", "is truncated"),
            ("end of parameters", "", "is truncated"),
            (
                "\nnum_tree_per_iteration=1",
                "\nnum_tree_per_iteration=0",
                "could not be",
            ),
            ("\nnum_leaves=", "\nnum_leaves=9", "could not be loaded"),
            ("\nTree=0", "\nTre", "could not be loaded: its process ended"),
        ],
    )
    def test_a_damaged_file_is_an_error_and_this_process_goes_on(
        self, path, old, new, message
    ):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(TeacherError, match=message) as caught:
            Booster(path, ["kind"])
        assert str(path) in str(caught.value)
        assert "`Booster.save_model`" in str(caught.value)

    def test_another_file_is_an_error(self, tmp_path, capfd):
        for text in ("no trees", "tree\nbut not really"):
            (tmp_path / "x.txt").write_text(text)
            with pytest.raises(TeacherError, match=r"must be .* LightGBM booster"):
                Booster(tmp_path / "x.txt")

    def test_a_missing_package_is_an_error_with_the_install_command(
        self, path, monkeypatch
    ):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(TeacherError, match=r'pip install "recdistill\[boosters\]"'):
            Booster(path)


class TestFunction:
    def test_a_function_in_the_current_folder_is_found(self, tmp_path, monkeypatch):
        (tmp_path / "their_ranker.py").write_text(
            "def f(inputs):\n  return inputs['x']"
        )
        monkeypatch.chdir(tmp_path)
        assert Function.load("their_ranker:f").predict({"x": 3}) == 3
        assert source_digest("their_ranker:f") == digest(tmp_path / "their_ranker.py")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no_such_module:f", "importable .* ModuleNotFoundError"),
            ("json:no_such", "must be a function in its module. Received: None"),
            ("json:__name__", "must be a function in its module. Received: 'json'"),
        ],
    )
    def test_a_missing_function_is_an_error(self, name, message):
        with pytest.raises(TeacherError, match=message):
            Function.load(name)

    def test_a_function_that_exits_is_an_error(self):
        model = Function(lambda inputs: sys.exit(), "function quits")
        with pytest.raises(TeacherError, match="function quits failed: SystemExit"):
            scored(model, np.zeros(1, "float32"))

    def test_a_module_that_exits_is_an_error(self, tmp_path, monkeypatch):
        (tmp_path / "their_exit.py").write_text("import sys\nsys.exit(0)")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(TeacherError, match="`their_exit` must be importable"):
            Function.load("their_exit:f")

    def test_errors_of_the_function_name_the_teacher(self):
        model = Function.load("json:loads")
        with pytest.raises(TeacherError, match="function json:loads failed: TypeError"):
            scored(model, np.zeros(1, "float32"))


class TestTfKeras:
    """The child process. The tests of the pipeline use it with a real TFRS model."""

    FACTORY = """
import os
import sys

def build(path=None):
    print("hello from the model")
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"
    import tf_keras
    x = tf_keras.Input((1,), name="x")
    return tf_keras.Model([x], {"twice": 2 * x, "path": x})

def named(path=None):
    import tf_keras
    x = tf_keras.Input((1,), name="a_layer")
    return tf_keras.Model({"x": x}, 2 * x)

def listed(path=None):
    import tf_keras
    x = tf_keras.Input((1,), name="x")
    outputs = [tf_keras.layers.Rescaling(s, name=f"by_{s}")(x) for s in (2, 3)]
    return tf_keras.Model(x, outputs)

def ragged(path=None):
    import tf_keras
    import tensorflow as tf
    x = tf_keras.Input((None,), ragged=True, name="past")
    return tf_keras.Model(x, tf.reduce_sum(x, axis=1))

def odd(path=None):
    def call(inputs):
        if float(inputs["x"][0]) == 13.0:
            print("thirteen!", file=sys.stderr, flush=True)
            os._exit(7)
        import tensorflow as tf
        return tf.strings.length(inputs["name"])
    return lambda inputs: call(inputs)
"""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("legacy")
        (folder / "their_models.py").write_text(cls.FACTORY)
        return folder

    def test_a_factory_builds_the_model_and_one_process_serves_all_calls(
        self, folder, monkeypatch
    ):
        monkeypatch.chdir(folder)
        model = TfKerasModel(factory="their_models:build", output="twice")
        assert model.inputs == {"x": InputSpec("float32", (None, 1))}
        assert model.parameters == 0
        for number in (1.0, 2.0):
            inputs = {"x": np.array([[number], [3.0]], "float32")}
            assert model.predict(inputs).tolist() == [[2 * number], [6.0]]
        with pytest.raises(TeacherError, match="failed") as caught:
            model.predict({"x": np.array([["no"]], object)})
        assert "their_models:build" in str(caught.value)
        assert model.predict(inputs).tolist() == [[4.0], [6.0]]  # The process survives.
        model.close()
        with pytest.raises(TeacherError, match="its process ended"):
            model.predict(inputs)

    def test_inputs_in_a_dict_are_named_by_their_keys(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        model = TfKerasModel(factory="their_models:named")
        assert model.inputs == {"x": InputSpec("float32", (None, 1))}
        assert model.predict({"x": np.array([[3.0]], "float32")}).tolist() == [[6.0]]
        model.close()

    def test_one_of_a_list_of_outputs_is_chosen_by_its_layer(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        model = TfKerasModel(factory="their_models:listed", output="by_3")
        assert model.predict({"x": np.array([[5.0]], "float32")}).tolist() == [[15.0]]

    def test_a_ragged_input_is_an_error(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        with pytest.raises(TeacherError, match=r"'past' is ragged.*'saved_model'"):
            TfKerasModel(factory="their_models:ragged")

    def test_a_crash_is_an_error_with_the_last_lines(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(
            "recdistill.teachers.model_process.__file__",
            str(eager_copy(folder)),
        )
        model = TfKerasModel(factory="their_models:odd")
        inputs = {
            "x": np.array([1.0, 1.0]),
            "name": np.array(["naïve", ""], object),
        }
        assert model.predict(inputs).tolist() == [6, 0]
        inputs["x"][0] = 13.0
        with pytest.raises(TeacherError, match=r"exit status 7.*\n(.*\n)*thirteen!"):
            model.predict(inputs)
        model.close()

    def test_a_missing_factory_is_an_error(self, folder):
        message = "could not be loaded: .* No module named 'no_such_module'"
        with pytest.raises(TeacherError, match=message):
            TfKerasModel(factory="no_such_module:build")

    def test_a_missing_path_is_an_error_without_a_process(self, tmp_path):
        with pytest.raises(TeacherError, match="which does not exist"):
            TfKerasModel(tmp_path / "none")


def eager_copy(folder):
    """A copy of the script that runs functions eagerly."""
    from recdistill.teachers import model_process

    with open(model_process.__file__, encoding="utf-8") as file:
        text = file.read()
    line = "        import tensorflow  # noqa: F401\n"
    assert text.count(line) == 1
    more = "        tensorflow.config.run_functions_eagerly(True)\n"
    (folder / "eager_process.py").write_text(text.replace(line, line + more))
    return folder / "eager_process.py"


def test_digests_depend_on_content_and_not_on_location(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x").write_text("1")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    (tmp_path / "b" / "deep" / "x").rename(tmp_path / "b" / "y")
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
    linked, shared = tmp_path / "a" / "variables", tmp_path / "elsewhere"
    shared.mkdir()
    (shared / "weights").write_text("1")
    linked.symlink_to(shared)
    (shared / "back").symlink_to(tmp_path / "a")
    before, size = digest(tmp_path / "a"), size_of(tmp_path / "a")
    (shared / "weights").write_text("22")
    assert digest(tmp_path / "a") != before
    assert size_of(tmp_path / "a") == size + 1
    assert source_digest("no_such_module:f") is None
    assert source_digest("sys:exit") is None
    assert json.dumps(source_digest("json:loads"))
