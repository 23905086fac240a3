"""The third opinion: the float model that a program was compiled from, in onnxruntime.

Golden and the gateware both take the compiler's integers on trust. Here every layer of the
original ONNX file runs alone, on what golden's inputs of this layer stand for, and what golden's
outputs stand for must lie as near as the integers allow. With golden's weights w and the float
model's v, K of them a row, an accumulator that counts in ``unit`` and outputs that count in
``step``, the bound of an output is the sum of:

- ``step / 2``, for its rounding; a whole ``step`` where the model is quantised itself and rounds
  too: it is equal then, or one step apart where float32 moves a value onto a tie or across it.
  Where the model's own sums are the output, they must be equal.
- ``sum(|w - v| |x|)``. A weight that is farther from v than the quantiser may leave it is a fault,
  and adds no more than that: half of its scale in int8, nothing where v is 0 or the model is
  quantised; in an EIE array the distance from v to the nearest shared weight, and the weights'
  scale, because every shared weight is rounded to it, the chosen one and that which is nearest now.
- The difference of the biases, for their rounding to ``unit``: at most half of it.
- ``step / 2^22``, for the requantiser's multiplier: half of its last bit is 2^-31 of an output of
  at most 2^8 steps, or, where the shift is at its limit of 55, 2^-56 of a sum of at most 2^31.
- Float arithmetic: ``(K + 16) u (sum(|w| |x|) + |b|)`` bounds a sum in any order and the few
  operations around it, u being half of the distance from 1 to the next number (C.-P. Jeannerod
  and S. M. Rump, "Improved error bounds for inner products in floating-point arithmetic", 2013).

An output saturates where the float model's value is beyond the range of its integers: the value is
clipped to that range before it is compared. Where golden has a ReLU it is not clipped from below,
so that a ReLU is seen that the model does not have. The weights v and the biases come from the
front end, which may be wrong too: they only set the bound, within what the quantiser may do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Deviation, ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.frontends.external import load_external
from zeroskip.sw.graph.convolution import convolve
from zeroskip.sw.graph.network import Layer
from zeroskip.sw.runtime.golden_network import Computed, Units, inputs, outputs, run

PRODUCTS = ("Gemm", "MatMul", "Conv", "QLinearMatMul", "QLinearConv", "MatMulInteger",
            "ConvInteger")
"""Operators that begin a layer; the first operand is what reaches it."""
GRIDS = {"QuantizeLinear": (1, 2), "QLinearMatMul": (6, 7), "QLinearConv": (6, 7)}
"""Operators whose output is int8 or uint8, and which of their operands are its scale and zero
point."""
OPERATIONS = 16
"""Roundings of an output beside those of its sum, at most."""
BLOCK = 1 << 22
"""Weights that are widened at a time."""


@dataclass(frozen=True)
class LayerOpinion:
    """How a layer compares with the float model: outputs compared, the greatest share of its
    bound that one takes, and how many the float model has outside of the integers' range."""

    layer: str
    outputs: int
    share: float
    outside: int


@dataclass(frozen=True)
class Disagreement:
    """An output beyond its bound, the one that takes the greatest share of it, in the first layer
    that has any.

    ``tensor`` is ``"output"``, or ``"input"`` where the conversion into the layer is wrong already;
    ``index`` counts in it. ``values`` are golden's and the float model's, clipped; ``outputs``
    counts all of the layer's that are beyond.
    """

    image: int
    layer: str
    tensor: str
    index: int
    values: tuple[float, float]
    error: float
    bound: float
    outputs: int

    def __str__(self) -> str:
        return (f"image {self.image}, layer {self.layer}, {self.tensor} {self.index}: "
                f"{self.values[0]:.6g} against {self.values[1]:.6g}, {self.error:.3g} apart where "
                f"{self.bound:.3g} is the bound; {self.outputs} {self.tensor}s of this layer are "
                "beyond it")


@dataclass(frozen=True)
class Opinion:
    """What the float model says of every layer, and where it disagrees, if anywhere."""

    layers: tuple[LayerOpinion, ...]
    disagreement: Disagreement | None


class FloatModel:
    """An ONNX file, layer by layer, beside the integers ``layers`` that it was compiled into.

    Raises ``BadInput`` where these cannot come from it.
    """

    def __init__(self, path: Path, layers: tuple[ReferenceLayer, ...]):
        if path.suffix.lower() == ".pt2":
            raise BadInput(f"{path}: only an ONNX model can be run beside a program; export the "
                           "model with torch.onnx.export and give that file")
        self._path, self._integers = path, layers
        self._layers = frontend.read(path).layers
        self._model = onnx.load(path, load_external_data=False)
        load_external(self._model, path)
        graph = self._model.graph
        self._producers = {name: at for at, node in enumerate(graph.node) for name in node.output}
        self._check()
        constants = {tensor.name for tensor in graph.initializer}
        (first,) = (value for value in graph.input if value.name not in constants)
        later = [node.input[0] for node in graph.node if node.op_type in PRODUCTS][1:]
        self._names = [first.name, *later, graph.output[0].name]
        self._batch, sample = self._sample(first)
        self._kinds = self._run_whole(sample)

    def _check(self) -> None:
        """That the model's layers have the program's shapes."""
        wanted = [layer.weight.shape for layer in self._integers]
        found = [own.matrix.shape for own in self._layers]
        products = sum(node.op_type in PRODUCTS for node in self._model.graph.node)
        if found != wanted or products != len(wanted):
            raise BadInput(f"{self._path} has layers of {_shapes(found)} weights, but the program "
                           f"has {_shapes(wanted)}; give the model that the program was compiled "
                           "from")

    def _sample(self, first: onnx.ValueInfoProto) -> tuple[int, np.ndarray]:
        """The model's batch, 1 where it takes any, and an input of zeros."""
        kind = first.type.tensor_type
        batch, *sizes = [dim.dim_value for dim in kind.shape.dim] or [0, 0]
        if 0 in sizes:      # not all are known: then no convolution depends on them
            sizes = [self._layers[0].inputs]
        return batch or 1, np.zeros((batch or 1, *sizes),
                                    helper.tensor_dtype_to_np_dtype(kind.elem_type))

    def _run_whole(self, sample: np.ndarray) -> list[tuple[np.dtype, tuple[int, ...]]]:
        """Type of every tensor between layers, from the input to the output, and the shape of a
        sample of it."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names[1:])
        found = self._session(model, self._names[1:])({self._names[0]: sample})
        return [(each.dtype, each.shape[1:]) for each in (sample, *found)]

    def compare(self, x: np.ndarray, given: np.ndarray | None) -> Opinion:
        """The opinion on what golden makes of the integers ``x`` [batch, in].

        ``given`` are the inputs as the model takes them [batch, in], of which ``x`` was made; None
        where nothing but ``x`` is known.
        """
        opinions, found, before = [], [], given
        for number, each in enumerate(run(self._integers, x)):
            name, units = each.layer.name, inputs(each.layer)
            if number == 0 and before is not None and self._kinds[0][0].kind in "iu":
                # an engine takes the integers of uint8 less 128
                units = Units(np.int8, 1.0, -128 - int(np.iinfo(before.dtype).min))
            if before is not None:
                found.append(_disagreement(name, "input", units.real(each.x), _clip(before, units),
                                           (0.5 + 2**-30) * units.scale))
            units = outputs(each.layer)
            wanted, golden = self._run(number, each), units.real(each.y)
            if wanted.shape != golden.shape:
                raise BadInput(f"{self._path}: layer {name} gives {wanted.shape[1]} outputs, but "
                               f"the program's {golden.shape[1]}; give the model that the program "
                               "was compiled from")
            if np.isnan(wanted).any():
                raise BadInput(f"{self._path}: layer {name} gives outputs that are not numbers; "
                               "give inputs like those that the model was trained on")
            clipped, bound = _clip(wanted, units, each.layer.activation), self._bound(number, each)
            found.append(_disagreement(name, "output", golden, clipped, bound))
            opinions.append(LayerOpinion(
                name, golden.size, float((np.abs(golden - clipped) / bound).max()),
                int(np.count_nonzero(clipped != wanted))))
            before = golden
        return Opinion(tuple(opinions), next((each for each in found if each), None))

    def _run(self, number: int, each: Computed) -> np.ndarray:
        """Outputs of one layer of the model, float64 [batch, outputs], on golden's inputs."""
        dtype, shape = self._kinds[number]
        if dtype.kind == "f":
            x = inputs(each.layer).real(each.x).astype(dtype)
        else:
            x = (each.x.astype(np.int16) + 128 + np.iinfo(dtype).min).astype(dtype)
        begin, end = self._names[number:number + 2]
        run, found = self._layer(begin, end, dtype), []
        for start in range(0, len(x), self._batch):
            some = x[start:start + self._batch]
            full = np.resize(some, (self._batch, x.shape[1])).reshape(-1, *shape)
            found.append(run({begin: full})[0].reshape(self._batch, -1)[:len(some)])
        return np.concatenate(found).astype(np.float64)

    def _layer(self, begin: str, end: str, dtype: np.dtype) -> Callable:
        """What computes the tensor ``end`` of the model, as real values, from ``begin``."""
        graph, needed, wanted = self._model.graph, set(), [end]
        while wanted:
            name = wanted.pop()
            at = self._producers.get(name)
            if name != begin and at is not None and at not in needed:
                needed.add(at)
                wanted += graph.node[at].input
        nodes = [graph.node[at] for at in sorted(needed)]
        nodes += self._dequantised(end)
        read = {name for node in nodes for name in node.input}
        model = helper.make_model(helper.make_graph(
            nodes, "layer",
            [helper.make_tensor_value_info(begin, helper.np_dtype_to_tensor_dtype(dtype), None)],
            [onnx.ValueInfoProto(name=nodes[-1].output[0])],
            [tensor for tensor in graph.initializer if tensor.name in read]),
            opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        return self._session(model, [nodes[-1].output[0]])

    def _dequantised(self, name: str) -> list[onnx.NodeProto]:
        """What makes a tensor of int8 or uint8 real, by the scale that the model gives it."""
        if self._kinds[self._names.index(name, 1)][0] not in (np.int8, np.uint8):
            return []
        node = self._model.graph.node[self._producers[name]]
        while node.op_type not in GRIDS:    # it only moves values
            node = self._model.graph.node[self._producers[node.input[0]]]
        grid = [node.input[at] for at in GRIDS[node.op_type] if at < len(node.input)]
        return [helper.make_node("DequantizeLinear", [name, *grid], [f"{name} as real values"])]

    def _session(self, model: onnx.ModelProto, names: list[str]) -> Callable:
        """A function from inputs by name to the outputs ``names``.

        As the model is written: nothing is fused or reordered. What onnxruntime has no kernel for
        (int8 activations with uint8 weights), ONNX's own reference computes.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4      # errors are raised
        try:
            session = ort.InferenceSession(model.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
        except ort.capi.onnxruntime_pybind11_state.NotImplemented:
            session = ReferenceEvaluator(model)
        except Exception as error:  # it has a class for each of its codes
            raise self._refusal(error) from None

        def run(feed):
            try:
                return session.run(names, feed)
            except Exception as error:
                raise self._refusal(error) from None
        return run

    def _refusal(self, error: Exception) -> BadInput:
        return BadInput(f"{self._path} does not run in onnxruntime "
                        f"({str(error).strip().partition(chr(10))[0]}); export it again")

    def _bound(self, number: int, each: Computed) -> np.ndarray:
        """How far each output may be from the float model's: float64, broadcasts to [batch,
        outputs]."""
        layer, own, step = each.layer, self._layers[number], outputs(each.layer).scale
        if each.y.dtype == np.int32:
            return np.array([step / 2])
        magnitude, columns = np.abs(inputs(layer).real(each.x)), layer.weight.shape[1]
        # float64 gains nothing: the front end's weights are float32
        eps = np.finfo(np.float16 if self._kinds[number][0] == np.float16 else np.float32).eps
        arithmetic = (columns + OPERATIONS) * float(eps) / 2
        deviation = registry.engine(layer.engine).deviation(layer, own)
        rows = max(1, BLOCK // columns)
        bounds = []
        for start in range(0, len(layer.weight), rows):
            some = slice(start, start + rows)
            weights, bias = _errors(deviation(some), own, some, arithmetic)
            products = magnitude @ weights.T if own.geometry is None else convolve(
                magnitude, weights, own.geometry, 0)
            bounds.append(products + np.repeat(bias, products.shape[1] // len(bias)))
        return np.concatenate(bounds, axis=1) + step * (
            (1 if own.quantised else 0.5) + 2**-22)


def _errors(deviation: Deviation, own: Layer, rows: slice,
            arithmetic: float) -> tuple[np.ndarray, np.ndarray]:
    """By how much each weight and each bias of some rows may be wrong, float64 [rows, K], [rows];
    ``arithmetic`` is the share of a product that its sum may add."""
    w, v = deviation.weight, own.matrix[rows].astype(np.float64)
    weights = np.minimum(np.abs(w - v), np.where(v == 0, 0, deviation.most))
    b = deviation.bias
    biases = np.minimum(np.abs(b - own.bias[rows]), deviation.unit / 2)
    return (weights + arithmetic * (np.abs(w) + weights),
            biases + arithmetic * (np.abs(b) + biases))


def _clip(real: np.ndarray, units: Units, activation: str = "none") -> np.ndarray:
    """Real values within the range of their integers."""
    low, high = units.range()
    return np.clip(np.asarray(real, np.float64), -np.inf if activation == "relu" else low, high)


def _disagreement(layer: str, tensor: str, golden: np.ndarray, wanted: np.ndarray,
                  bound: np.ndarray | float) -> Disagreement | None:
    error, bound = np.abs(golden - wanted), np.broadcast_to(bound, golden.shape)
    beyond = error > bound
    if not beyond.any():
        return None
    place = np.unravel_index((error / bound).argmax(), error.shape)
    return Disagreement(int(place[0]), layer, tensor, int(place[1]),
                        (float(golden[place]), float(wanted[place])), float(error[place]),
                        float(bound[place]), int(np.count_nonzero(beyond)))


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, shape)) for shape in shapes)
