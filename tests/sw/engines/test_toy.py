"""An engine that only this file knows: it is registered at run time, and everything that takes an
engine takes it."""

import json
import re
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.core import CoreConfig, CoreSignature
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.netlist import emit
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.system.top import Top
from zeroskip.hw.tensorcore.config import CONFIGS as CORE
from zeroskip.sw.cli.main import main
from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.compile import compile_network, storage
from zeroskip.sw.compiler.placement import inspect
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Engine, Image, Offer, Result
from zeroskip.sw.engines.checks import check_range, check_tensor
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.verify import verify

# --- hardware: y = sat8(x * factor >> shift), one item a cycle ---


@dataclass(frozen=True)
class ScalerConfig(CoreConfig):
    kind: ClassVar[str] = "scaler"

    shift_bits: int = 3

    def gateware(self):
        return Scaler


class Scaler(wiring.Component):
    def __init__(self, config):
        self.config = config
        super().__init__(CoreSignature(
            control={"factor": In(8), "shift": In(config.shift_bits), "busy": Out(1)},
            streams={"inputs": In(stream.Signature(signed(8))),
                     "outputs": Out(stream.Signature(signed(8)))}))

    def elaborate(self, platform):
        m = Module()
        scaled, room = Signal(signed(16)), Signal()
        m.d.comb += [
            scaled.eq((self.inputs.payload * self.factor.as_signed()) >> self.shift),
            room.eq(self.outputs.ready | ~self.outputs.valid),
            self.inputs.ready.eq(room), self.busy.eq(self.outputs.valid)]
        with m.If(room):
            m.d.sync += [
                self.outputs.valid.eq(self.inputs.valid),
                self.outputs.payload.eq(Mux(scaled > 127, 127, Mux(scaled < -128, -128, scaled)))]
        return m


# --- software ---

@dataclass(frozen=True, eq=False)
class Scale:
    """A layer of a network that multiplies every value by a number."""

    name: str
    number: float
    inputs: int
    activation: str = "none"
    quantised: None = None
    geometry: None = None

    @property
    def outputs(self):
        return self.inputs

    @property
    def weight(self):
        return np.array([self.number], np.float32)

    @property
    def bias(self):
        return np.zeros(1, np.float32)

    @property
    def matrix(self):
        return self.weight[:, None]

    def forward(self, x):
        return x * np.float32(self.number)


@dataclass(frozen=True, eq=False)
class ScaleLayer:
    """The reference of a layer, and all that an image has to know of it."""

    engine: ClassVar[str] = "scaler"
    TENSORS: ClassVar[dict] = {"weight": np.int8, "shift": np.int32}

    name: str
    weight: np.ndarray
    shift: int
    input: TensorType
    output: TensorType
    activation: str = "none"

    def header(self):
        return {"inputs": self.input.size}

    @classmethod
    def from_file(cls, header, tensors):
        return cls(header["name"], tensors["weight"], int(tensors["shift"]), *(
            TensorType.of(header["inputs"], np.int8, header[f"{name}_scale"])
            for name in ("input", "output")))


@dataclass(frozen=True, eq=False)
class ScalerImage(Image):
    engine = "scaler"
    unit = "scaler"

    config: ScalerConfig
    layers: tuple

    counted = False

    def traced(self):
        return self

    def owner(self, layer, output):
        return 0

    def unpacked(self):
        return iter(self.layers)

    def storage(self):
        return {"weights": len(self.layers), "shifts": len(self.layers),
                "float32": 4 * len(self.layers)}

    def header(self):
        return {"layers": [{"name": layer.name, "shift": layer.shift, "inputs": layer.input.size,
                            "input_scale": layer.input.scale, "output_scale": layer.output.scale}
                           for layer in self.layers]}

    def tensors(self):
        return {"factors": np.concatenate([layer.weight for layer in self.layers])}

    @classmethod
    def from_file(cls, header, tensors):
        return cls(ScalerConfig(**header["config"]), tuple(
            ScaleLayer.from_file(layer, {"weight": factor[None], "shift": layer["shift"]})
            for layer, factor in zip(header["layers"], tensors["factors"], strict=True)))

    def check(self):
        for layer in self.layers:
            check_range(f"layer {layer.name}: shift", layer.shift, 0,
                        (1 << self.config.shift_bits) - 1)
            check_tensor(f"layer {layer.name}: factor", layer.weight, np.int8, (1, 1))

    def check_size(self):
        pass


class ScalerEngine(Engine):
    name = "scaler"
    configs = {"scaler": ScalerConfig()}    # noqa: RUF012
    image = ScalerImage
    layer = ScaleLayer
    shown = {"name": "layer", "shift": "shift"}     # noqa: RUF012

    def accepts(self, layer):
        if not isinstance(layer, Scale):
            raise BadInput(f"layer {layer.name} scales nothing")
        return Offer("dense", "It is scaled.")

    def grid(self, low, high):
        return TensorType.of(1, np.int8, max(-low, high) / 127)

    def quantise(self, section, x, ranges, config, before=None, raw=False):
        layers, shift = [], (1 << config.shift_bits) - 1
        scale = max(map(abs, ranges[0])) / 127
        for layer, span in zip(section.layers, ranges[1:], strict=True):
            step = layer.number * scale * 2**shift
            factor = int(np.clip(np.rint(step / (max(map(abs, span)) / 127)), -128, 127))
            layers.append(ScaleLayer(layer.name, np.array([[factor]], np.int8), shift, *(
                TensorType.of(layer.inputs, np.int8, each) for each in (scale, step / factor))))
            scale = step / factor
        return tuple(layers), (None,) * len(layers)

    def lower(self, layers, config, _batch=None):
        return ScalerImage(config, tuple(layers))

    def golden(self, layer, x):
        exact = x.astype(np.int64) * int(layer.weight[0, 0]) // 2**layer.shift
        y = np.minimum(np.maximum(exact, -128), 127)
        return y.astype(np.int8), np.count_nonzero(y != exact)

    def run(self, device, image, x, progress=None):
        outputs, times = [], []
        for number, layer in enumerate(image.layers, 1):
            device.poke("factor", int(layer.weight[0, 0]) & 0xFF)
            device.poke("shift", layer.shift)
            items = np.ascontiguousarray(x).view(np.uint8).astype(np.uint32).reshape(-1, 1)
            found, cycles = device.run({"inputs": items}, {"outputs": x.size})["outputs"]
            device.wait("busy", 0)
            x = found.astype(np.uint8).view(np.int8).reshape(x.shape)
            outputs.append(x)
            times.append(cycles.astype(np.int64).reshape(x.shape))
            if progress:
                progress(number * len(x), len(image.layers) * len(x))
        return Result(tuple(outputs), tuple(times), saturated=None)

    def describe(self, layer, report):
        return {"name": layer.name, "shift": layer.shift}


@pytest.fixture(autouse=True)
def registered():
    registry.register(ScalerEngine())
    yield
    registry.unregister("scaler")


def network():
    """A layer for each engine, one of two more for the scaler."""
    rng = np.random.default_rng(3)

    def linear(name, rows, columns, density, activation):
        weight = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < density)
        return Linear(name, weight.astype(np.float32), np.zeros(rows, np.float32), activation)
    return Network((linear("sparse", 12, 8, 0.3, "relu"), Scale("half", 0.5, 12),
                    Scale("minus", -1.75, 12), linear("dense", 5, 12, 1.0, "none")))


CONFIGS = (EIEConfig(pes=2), CORE["tc-64"], ScalerConfig())


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(4).normal(size=(6, 8)).astype(np.float32)


@pytest.fixture
def compiled(x):
    return compile_network(network(), x, *CONFIGS, wishes={"sparse": "eie"})


def test_placement_asks_it(compiled):
    names = ["eie", "scaler", "scaler", "tensorcore"]
    rows = inspect(Graph.of(network()))
    assert [row["engine"] for row in rows] == ["tensorcore", *names[1:]]    # sparse is small
    assert [(row["cycles"], row["bytes"]) for row in rows[1:3]] == [(1, 4)] * 2
    assert [layer.engine for layer in compiled.reference] == names
    assert [image.engine for image in compiled.program.images] == ["eie", "scaler", "tensorcore"]


def test_a_layer_that_only_it_takes_is_refused_without_it(x):
    with pytest.raises(BadInput, match="layer half is not fully connected, and the EIE array .*; "
                                       "layer half is neither fully connected"):
        compile_network(network(), x, *CONFIGS[:2])


def test_the_integers_are_near_the_network(compiled, x):
    program = compiled.program
    golden = backends.create("golden", program, lambda: compiled.reference)
    *_, last = verify(program, program.input.to_integer(x)[0], (golden, golden)).results[0]
    wanted = network().forward(x)[-1]
    error = program.output.to_float(last.outputs[-1]) - wanted
    assert np.sqrt(np.mean(error**2)) < 0.03 * np.sqrt(np.mean(wanted**2))


def test_rtl_equals_golden(compiled, x):
    program = compiled.program
    golden = backends.create("golden", program, lambda: compiled.reference)
    inputs, _ = program.input.to_integer(1.5 * x)       # beyond range: saturates
    verdict = verify(program, inputs, (golden, backends.rtl("python")))
    assert verdict.difference is None
    assert verdict.compared == 6 * (12 + 12 + 12 + 5)
    assert verdict.results[1][1].times[-1].min() > 0


@pytest.mark.parametrize("name", ["python", "cxxrtl"])
def test_the_scaler_alone_on_every_value(name):
    layer = ScaleLayer("all", np.array([[-77]], np.int8), 5,
                       *[TensorType.of(256, np.int8, 1.0)] * 2)
    image = ScalerImage(ScalerConfig(), (layer,))
    program = Program.chain((image,), (layer,))
    golden = backends.create("golden", program, lambda: (layer,))
    x = np.arange(-128, 128).astype(np.int8)[None]
    verdict = verify(program, x, (golden, backends.rtl(name)))
    assert verdict.difference is None
    y = verdict.results[1][0].outputs[0][0]
    assert (y.min(), y.max(), y[128], y[129]) == (-128, 127, 0, -3)


def test_a_fault_in_its_image_is_found():
    layers = tuple(ScaleLayer(name, np.array([[factor]], np.int8), 2,
                              *[TensorType.of(4, np.int8, 1.0)] * 2)
                   for name, factor in (("half", 2), ("minus", -7)))
    image = ScalerImage(ScalerConfig(), layers)
    program = Program.chain((image,), layers)
    golden = backends.create("golden", program, lambda: layers)
    runner = backends.rtl("python")
    wrong = replace(image, layers=(layers[0], replace(layers[1], shift=3)))

    class Broken:
        name = "broken"

        def run(self, image, inputs, progress=None):
            return runner.run(wrong, inputs, progress)
    x = np.array([[0, 0, 0, 0], [0, 0, 40, 8]], np.int8)
    found = verify(program, x, (golden, Broken())).difference
    assert (found.image, found.layer, found.row, found.unit, found.values, found.outputs) == (
        1, "minus", 2, "scaler", (-35, -18), 2)


def test_program_and_reference_come_back(compiled, tmp_path):
    path = tmp_path / "model.zsk"
    compiled.save(path)
    program, layers = Program.load(path), reference.load(reference.beside(path))
    assert [image.engine for image in program.images] == ["eie", "scaler", "tensorcore"]
    assert program.digest(layers) == program.reference == compiled.program.reference
    assert storage(program) == storage(compiled.program)
    registry.unregister("scaler")
    try:
        with pytest.raises(BadInput, match="image 1 is for the engine 'scaler', expected eie or"):
            Program.load(path)
        with pytest.raises(BadInput, match="no engine 'scaler'; choose one of eie, tensorcore"):
            reference.load(reference.beside(path))
    finally:
        registry.register(ScalerEngine())


def test_a_top_with_it():
    system = SystemConfig((ScalerConfig(), ScalerConfig(shift_bits=4)))
    top = Top(system, divisor=4)
    assert system.names == ("scaler", "scaler_1")
    text = emit.verilog(top, "top")
    assert re.search(r"module .*scaler_1", text)
    assert [port["name"] for port in emit.ports(top)] == ["clk", "rst", "rx", "tx", "irq"]


def test_verilog_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zeroskip", "verilog", "scaler", "--json", "-o",
                                      str(tmp_path / "scaler.v")])
    with pytest.raises(SystemExit, match="^0$"):
        main()
    described = json.loads(capsys.readouterr().out)
    assert (described["config"], described["memory_bits"], described["latency"]) == (
        "scaler", {}, {})
    assert "module scaler" in (tmp_path / "scaler.v").read_text()


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="there is an engine 'scaler' already"):
        registry.register(ScalerEngine())
    assert isinstance(registry.of(ScalerConfig()), ScalerEngine)
