"""Faults in code that both engines rely on: each is planted, and ``verify`` sees it, by golden's
own way to compute or by the float model."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler import compile as compiler
from zeroskip.sw.engines.eie import quantize as eie_quantize
from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.engines.tensorcore import host as tensorcore_host
from zeroskip.sw.engines.tensorcore import quantize as tensorcore_quantize
from zeroskip.sw.engines.tensorcore.packed import TensorCoreLayer
from zeroskip.sw.engines.tensorcore.sample import FILL, Sample
from zeroskip.sw.frontends import load
from zeroskip.sw.frontends.load import to_onnx
from zeroskip.sw.graph import im2col, network
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.float_model import FloatModel
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

CONFIGS = (EIEConfig(pes=2),
           TensorCoreConfig(rows=2, columns=2, products=2, weight_words=64, activation_words=64))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A convolution for the tensor core, a sparse layer for the array, a dense one for the tensor
    core again; and inputs, whose zero point is not 0."""
    rng = np.random.default_rng(5)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)
    conv = Conv2d("conv", normal(3, 2, 3, 2), 3 * normal(3), "relu", (2, 6, 5), (1, 2),
                  (1, 0, 2, 1), (1, 2))
    sparse = normal(9, conv.outputs)
    sparse[rng.random(sparse.shape) < 0.6] = 0
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    to_onnx(Network((conv, Linear("array", sparse, 10 * normal(9), "relu"),
                     Linear("core", normal(4, 9), 5 * normal(4), "none"))), path)
    return path, normal(2, 60) + np.float32(0.5)


def compiled(model):
    """What the model becomes, and its inputs as integers."""
    path, x = model
    found = compiler.compile_network(load.read(path), x, *CONFIGS, wishes={"array": "eie"})
    assert [image.engine for image in found.program.images] == ["tensorcore", "eie", "tensorcore"]
    return found, found.program.input.to_integer(x)[0]


def difference(model):
    """The layer in which golden and the gateware differ, None where they do not."""
    found, integers = compiled(model)
    golden = GoldenBackend(found.program, found.reference)
    verdict = verify(found.program, integers, (golden, backends.rtl("python")))
    return verdict.difference and verdict.difference.layer


def disagreement(model):
    """The layer and its tensor that the float model disagrees with, None where there is none."""
    (path, x), (found, integers) = model, compiled(model)
    program, layers = found.program, found.reference
    run = run_program(program.traced(), GoldenBackend(program, layers), integers)
    third = FloatModel(path, program, layers).compare(
        run, {program.inputs[0].name: x}).disagreement
    return third and (third.layer, third.tensor)


def test_without_a_fault_nobody_objects(model):
    assert difference(model) is None
    assert disagreement(model) is None


# --- the host's arithmetic: golden has its own ---

def test_im2col_axes_swapped(model, monkeypatch):
    def swapped(patches, geometry):
        shaped = patches.reshape(len(patches), -1, *geometry.kernel)
        return shaped.swapaxes(2, 3).reshape(patches.shape)

    def places(self, schedule):
        right, found = places_of(self, schedule), np.full(schedule.order.size, FILL, np.int32)
        found[schedule.order] = right
        if self.geometry:
            found[:self.columns] = swapped(found[None, :self.columns], self.geometry)
        return found[schedule.order]
    places_of = TensorCoreLayer._places
    monkeypatch.setattr(TensorCoreLayer, "_places", places)
    monkeypatch.setattr(network, "columns", lambda x, geometry, fill: swapped(
        im2col.columns(x, geometry, fill), geometry))
    assert difference(model) == "conv"


def test_fold_not_transposed(model, monkeypatch):
    def flat(y, geometry):
        return y if geometry is None else y.reshape(-1, geometry.positions * y.shape[1])
    for module in (tensorcore_host, network):
        monkeypatch.setattr(module, "fold", flat)
    assert difference(model) == "conv"


def test_zero_point_dropped_between_engines(model, monkeypatch):
    """And where the model's inputs become integers, which both engines get alike."""
    right = TensorType.to_integer
    monkeypatch.setattr(TensorType, "to_integer",
                        lambda self, x: right(replace(self, zero_point=0), x))
    assert difference(model) == "array:tensorcore"
    assert disagreement(model) == ("conv", "input")


def test_zero_point_dropped_on_the_way_to_real_values(model, monkeypatch):
    right = TensorType.to_float
    monkeypatch.setattr(TensorType, "to_float",
                        lambda self, y: right(replace(self, zero_point=0), y))
    assert difference(model) == "conv:eie"


def test_padding_that_reads_0(model, monkeypatch):
    """In the host alone the engines differ; in golden too the float model is needed."""
    padded = Sample.padded
    monkeypatch.setattr(Sample, "padded", lambda self, x, _zero_point: padded(self, x, 0))
    monkeypatch.setattr(network, "columns", lambda x, geometry, _fill: im2col.columns(
        x, geometry, 0))
    assert difference(model) == "conv"
    right = tensorcore.convolve
    monkeypatch.setattr(tensorcore, "convolve", lambda x, weight, geometry, _fill: right(
        x, weight, geometry, 0))
    assert difference(model) is None
    assert disagreement(model) == ("conv", "output")


# --- what both engines take on trust: the float model does not ---

def plant_quantiser(monkeypatch, number, change):
    """Changes layer ``number`` of the network as its quantiser gives it."""
    names = ["conv", "array", "core"]
    for module in (tensorcore_quantize, eie_quantize):
        def planted(section, *args, right=module.quantize, **kwargs):
            layers, reports = right(section, *args, **kwargs)
            layers = tuple(change(layer) if layer.name == names[number] else layer
                           for layer in layers)
            return layers, reports
        monkeypatch.setattr(module, "quantize", planted)


def doubled_bias(layer):
    folded = layer.input.zero_point * layer.weight.sum(axis=1, dtype=np.int64)
    return replace(layer, bias=2 * layer.bias + folded)


LAYERS = pytest.mark.parametrize(("number", "layer"), [(0, "conv"), (1, "array"), (2, "core")])


def test_what_both_engines_take_on_trust_is_equal_in_both(model, monkeypatch):
    plant_quantiser(monkeypatch, 0, doubled_bias)
    assert difference(model) is None


@LAYERS
def test_quantiser_bias_doubled(model, monkeypatch, number, layer):
    plant_quantiser(monkeypatch, number, doubled_bias)
    assert disagreement(model) == (layer, "output")


@LAYERS
@pytest.mark.parametrize("factor", [0.9, 1.1, 2])
def test_scale_of_an_output_is_off(model, monkeypatch, number, layer, factor):
    plant_quantiser(monkeypatch, number, lambda layer: replace(
        layer, output=replace(layer.output, scale=layer.output.scale * factor)))
    assert disagreement(model) == (layer, "output")


@LAYERS
def test_scale_of_an_input_is_off(model, monkeypatch, number, layer):
    plant_quantiser(monkeypatch, number, lambda layer: replace(
        layer, input=replace(layer.input, scale=layer.input.scale * 1.5)))
    assert disagreement(model)[0] == layer


@LAYERS
def test_weights_of_a_row_permuted_by_the_compiler(model, monkeypatch, number, layer):
    def permuted(layer):
        # the array's weights are places in its codebook
        name = "indices" if hasattr(layer, "indices") else "weight"
        weight = getattr(layer, name).copy()
        weight[1] = weight[1, ::-1]
        return replace(layer, **{name: weight})
    plant_quantiser(monkeypatch, number, permuted)
    assert disagreement(model) == (layer, "output")


def plant_network(monkeypatch, number, **change):
    """Changes layer ``number`` of the network as the front end gives it."""
    right = load.read

    def planted(*args):
        found = right(*args)
        node = found.layers[number]
        layer = replace(node.layer, **{name: new(getattr(node.layer, name))
                                       for name, new in change.items()})
        return replace(found, nodes=tuple(
            replace(each, layer=layer) if each is node else each for each in found.nodes))
    monkeypatch.setattr(load, "read", planted)


@LAYERS
def test_weights_of_a_row_permuted_by_the_front_end(model, monkeypatch, number, layer):
    def permuted(weight):
        weight = weight.copy()
        weight[1] = weight[1].ravel()[::-1].reshape(weight[1].shape)
        return weight
    plant_network(monkeypatch, number, weight=permuted)
    assert disagreement(model) == (layer, "output")


@LAYERS
def test_bias_lost_by_the_front_end(model, monkeypatch, number, layer):
    plant_network(monkeypatch, number, bias=np.zeros_like)
    assert disagreement(model) == (layer, "output")


@pytest.mark.parametrize(("number", "layer"), [(0, "conv"), (1, "array")])
def test_relu_lost(model, monkeypatch, number, layer):
    plant_network(monkeypatch, number, activation=lambda _: "none")
    assert disagreement(model) == (layer, "output")


def test_relu_that_the_model_does_not_have(model, monkeypatch):
    """Calibration gives such outputs a range without negative values."""
    plant_network(monkeypatch, 2, activation=lambda _: "relu")
    assert disagreement(model) == ("core", "output")


def test_padding_on_the_wrong_side(model, monkeypatch):
    plant_network(monkeypatch, 0, padding=lambda padding: (*padding[2:], *padding[:2]))
    assert disagreement(model) == ("conv", "output")
