"""What people give and get, against buffers: types, shapes, batches, names."""

import numpy as np
import pytest

from zeroskip.sw.compiler.program import Port, Program
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime.arrays import inputs, outputs

INT8, INT16, FLOAT = np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.float32)


def program(kinds, dtypes, batch=1, given=None):
    """A program of inputs of these types, which gives ``given``."""
    buffers = {f"b{i}": kind for i, kind in enumerate(kinds)}
    ports = tuple(Port(f"x{i}", dtype, f"b{i}") for i, dtype in enumerate(dtypes))
    return Program({**buffers, "y": given or kinds[0]}, (), ports, (Port("out", "float32", "y"),),
                   batch=batch)


def test_floats_are_rounded_into_integers_and_saturated_ones_counted():
    own = program([TensorType((2, 3), INT8, 0.5, 1)], ["float32"])
    x = np.array([[[0, 0.25, 0.75], [-0.5, 100, -100]]], np.float32)
    found = inputs(own, "x", x)
    np.testing.assert_array_equal(found.buffers["x0"], [[1, 1, 3, 0, 127, -128]])
    assert (found.samples, found.saturated, found.size) == (1, 2, 6)
    assert (found.range, found.outside) == ((-64.5, 63.0), 0)
    assert inputs(own, "x", x * 2).outside == 2


def test_integers_of_a_uint8_model_lose_128():
    own = program([TensorType((2,), INT8, 0.5, 0)], ["uint8"])
    np.testing.assert_array_equal(
        inputs(own, "x", np.array([[0, 255]], np.uint8)).buffers["x0"], [[-128, 127]])
    with pytest.raises(BadInput, match="is int64, but the model takes uint8"):
        inputs(own, "x", np.array([[0, 255]]))


def test_integers_as_they_are():
    own = program([TensorType((2,), np.dtype(np.int64), 1.0)], ["int64"])
    np.testing.assert_array_equal(inputs(own, "x", np.array([[3, 4]])).buffers["x0"], [[3, 4]])
    with pytest.raises(BadInput, match="is float64, but the model takes int64"):
        inputs(own, "x", np.array([[3.0, 4]]))


def test_raw_integers():
    own = program([TensorType((2,), INT16, 0.5)], ["float32"])
    np.testing.assert_array_equal(inputs(own, "x", np.array([[3, -4]]), raw=True).buffers["x0"],
                                  [[3, -4]])
    with pytest.raises(BadInput, match="--raw takes integers from -32768 to 32767"):
        inputs(own, "x", np.array([[1 << 15, 0]]), raw=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_float_that_is_not_finite_is_refused(bad):
    for kind in (TensorType((2,), INT8, 1.0), TensorType((2,), FLOAT, 1.0)):
        if bad == 1e300 and kind.dtype == INT8:
            continue    # which saturates
        with pytest.raises(BadInput, match="must be a finite float32"):
            inputs(program([kind], ["float32"]), "x", np.array([[0, bad]]))


def test_a_fixed_batch_is_filled_and_cut_again():
    own = program([TensorType((4, 2), FLOAT, 1.0)], ["float32"], batch=4)
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    found = inputs(own, "x", x)
    assert found.buffers["x0"].shape == (2, 8)
    assert found.samples == 6
    np.testing.assert_array_equal(found.buffers["x0"].reshape(8, 2)[:6], x)
    np.testing.assert_array_equal(found.buffers["x0"].reshape(8, 2)[6:], [x[4], x[4]])
    y = outputs(own, {"y": found.buffers["x0"]}, found.samples)["out"]
    np.testing.assert_array_equal(y, x)


def test_outputs_are_real_values_but_for_raw_ones_and_sums():
    own = program([TensorType((2,), FLOAT, 1.0)], ["float32"], given=TensorType((2,), INT8, 0.5, 1))
    integers = np.array([[3, 0]], np.int8)
    found = outputs(own, {"y": integers}, 1)["out"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, -0.5]])
    np.testing.assert_array_equal(outputs(own, {"y": integers}, 1, raw=True)["out"], integers)
    sums = program([TensorType((1,), FLOAT, 1.0)], ["float32"],
                   given=TensorType((1,), np.dtype(np.int32), 1.0))
    exact = np.array([[(1 << 31) - 1]], np.int32)
    np.testing.assert_array_equal(outputs(sums, {"y": exact}, 1)["out"], exact)


TWO = [TensorType((2,), FLOAT, 1.0), TensorType((3,), FLOAT, 1.0)]


@pytest.mark.parametrize(("given", "message"), [
    (np.zeros((1, 2)), "x is one array, but the model has the inputs x0, x1; give an .npz"),
    ({"x0": np.zeros((1, 2))}, "x has x0, but the model has the inputs x0, x1"),
    ({"x0": np.zeros((1, 2)), "z": np.zeros((1, 3))}, "x has x0, z, but"),
    ({"x0": np.zeros((1, 2)), "x1": np.zeros((2, 3))}, "different numbers of samples"),
    ({"x0": np.zeros((1, 2)), "x1": np.zeros((1, 2))}, "x 'x1' is"),
])
def test_names_and_numbers_of_several_inputs(given, message):
    with pytest.raises(BadInput, match=message):
        inputs(program(TWO, ["float32"] * 2), "x", given)


def test_several_inputs():
    found = inputs(program(TWO, ["float32"] * 2), "x",
                   {"x1": np.ones((4, 3)), "x0": np.zeros((4, 2))})
    assert {name: each.shape for name, each in found.buffers.items()} == {
        "x0": (4, 2), "x1": (4, 3)}
    assert all(each.dtype == np.float32 for each in found.buffers.values())
