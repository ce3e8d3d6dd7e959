"""layer_outputs: exposed values and layer outputs from one forward pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.layer_outputs import (
    Projection,
    expose,
    layer_paths,
    watching,
)

X = np.array([[1.0, 2.0]], "float32")


class Tower(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(3, name="hidden")

    def call(self, x):
        return self.hidden(x)


class Model(keras.Model):
    """Two towers whose layers share a name; the right tower is also exposed."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Tower(name="left"), Tower(name="right")
        self.unused = keras.layers.Dense(1, name="unused")
        self.made = 0

    def build(self, input_shape):
        for layer in (self.left.hidden, self.right.hidden, self.unused):
            layer.build(input_shape)
        self.left.built = self.right.built = True

    def call(self, x, training=None):
        left, right = self.left(x), self.right(x)
        expose("right", 10.0 * right)

        def make():
            self.made += 1
            return left - right

        expose("gap", make)
        return left + right


def watched(model, *names):
    with watching(model, names) as outputs:
        model(X)
    return {name: np.array(output) for name, output in outputs.items()}


def test_layers_are_found_by_the_end_of_their_path():
    model = Model()
    got = watched(model, "left", "left/hidden", "right/hidden")
    np.testing.assert_array_equal(got["left"], model.left(X))
    np.testing.assert_array_equal(got["left/hidden"], model.left(X))
    np.testing.assert_array_equal(got["right/hidden"], model.right(X))
    paths = [path for path, _ in layer_paths(model)]
    assert paths == ["left", "left/hidden", "right", "right/hidden", "unused"]


def test_an_exposed_value_takes_precedence_over_a_layer_of_that_name():
    model = Model()
    np.testing.assert_allclose(watched(model, "right")["right"], 10 * model.right(X))


def test_a_value_that_is_not_watched_is_not_computed():
    model = Model()
    model(X)
    watched(model, "left")
    assert model.made == 0
    assert set(watched(model, "gap")) == {"gap"}
    assert model.made == 1


def test_an_unknown_name_is_left_out():
    assert watched(Model(), "unused", "nowhere") == {}


def test_an_ambiguous_name_is_an_error_that_shows_both_layers():
    with pytest.raises(
        ValueError, match=r"'hidden', which matches \['left/h.*'right/hid"
    ):
        watched(Model(), "hidden")


def test_a_layer_that_is_called_twice_is_an_error():
    layer = keras.layers.Rescaling(2.0, name="twice")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layer(layer(inputs)))
    with pytest.raises(
        ValueError, match=r"called once in a forward pass.*two calls of 'twice'"
    ):
        watched(model, "twice")
    np.testing.assert_array_equal(model(X), 4 * X)


def test_watching_leaves_the_model_unchanged():
    model = Model()
    want = np.array(model(X))
    before = dict(vars(model.left.hidden))
    watched(model, "left/hidden")
    assert vars(model.left.hidden).keys() == before.keys()
    np.testing.assert_array_equal(model(X), want)
    with pytest.raises(RuntimeError, match="inside"), watching(model, ["left"]):
        raise RuntimeError("inside")
    assert "call" not in vars(model.left)


def test_gradients_flow_through_watched_outputs_in_a_graph():
    model = Model()
    model(X)

    @tf.function
    def slope():
        with tf.GradientTape() as tape:
            with watching(model, ["left/hidden"]) as outputs:
                model(X)
            loss = tf.reduce_sum(outputs["left/hidden"])
        return tape.gradient(loss, model.left.hidden.kernel.value)

    np.testing.assert_allclose(slope(), np.tile(X.T, (1, 3)))


def test_a_function_can_expose_too():
    def teacher(x):
        expose("half", x / 2)

    with watching(teacher, ["half", "layer"]) as outputs:
        teacher(X)
    assert list(outputs) == ["half"]


def test_a_projection_is_an_affine_map_in_float32():
    projection = Projection()
    projection.build((2, 3))
    projection.bias.assign([1.0, 2.0, 3.0])
    got = projection(tf.constant(X, tf.float16))
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, X @ projection.kernel.numpy() + [[1, 2, 3]])
    with pytest.raises(ValueError, match=r"known width.*\(None, 3\)"):
        Projection().build((None, 3))
