"""The third opinion: the float model that a program was compiled from, in onnxruntime.

Golden and the gateware both take the compiler's integers on trust. Here every layer runs alone, as
the ONNX file has it between the value that the layer reads and the one that it writes, on what
golden's inputs of this layer stand for, and what golden's outputs stand for must lie as near as the
integers allow. With golden's weights w and the float model's v, K of them a row, an accumulator
that counts in ``unit`` and outputs that count in ``step``, the bound of an output is the sum of:

- ``step / 2``, for its rounding. A model that is quantised itself rounds too, and a tie to even
  like golden: nothing is left then, but a whole ``step`` where golden's sum lies so near to a tie
  that the rest of the bound, which float32 may move it by, takes it there or across. Where the
  model's own sums are the output, they must be equal; where a float layer's are, they count as what
  the host step that reads them makes of them, and nothing is rounded.
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
front end, which may be wrong too: they only set the bound, within what the quantiser may do. What
the host computes between layers has no second opinion here.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from zeroskip.sw.compiler import integer
from zeroskip.sw.compiler.program import EngineStep, HostStep, OperatorStep, Port, Program
from zeroskip.sw.compiler.rules import Convert, Patches
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Deviation, ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import clean
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.frontends.external import load_external
from zeroskip.sw.graph.convolution import convolve
from zeroskip.sw.graph.graph import Graph, LayerNode
from zeroskip.sw.graph.im2col import fold
from zeroskip.sw.graph.network import SMOOTHED, Layer
from zeroskip.sw.graph.samples import batched
from zeroskip.sw.graph.sums import Sums
from zeroskip.sw.runtime.golden_network import Units, inputs, outputs
from zeroskip.sw.runtime.run import Run

GRIDS = {"QuantizeLinear": (1, 2), "QLinearMatMul": (6, 7), "QLinearConv": (6, 7)}
"""Operators whose output is int8 or uint8, and which of their operands are its scale and zero
point."""
OPERATIONS = 16
"""Roundings of an output beside those of its sum, at most."""
NOTHING = 2.0**-1000
"""The step of sums, which are not rounded: no bound is 0."""
BLOCK = 1 << 22
"""Weights that are widened at a time."""

Compute = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LayerOpinion:
    """How a layer compares with the float model: outputs compared, the greatest share of its
    bound that one takes, the greatest difference, how many the float model has outside of the
    integers' range, and whether the layer ran as the cleaned model has it, because the file has no
    value of the name where it begins or ends."""

    layer: str
    outputs: int
    share: float
    error: float
    outside: int
    cleaned: bool


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
    """An ONNX file, layer by layer, beside the integers ``layers`` of the ``program`` that it was
    compiled into.

    ``shapes`` are those of inputs that the file leaves open beyond the batch. Raises ``BadInput``
    where the program cannot come from it.
    """

    def __init__(self, path: Path, program: Program, layers: Sequence[ReferenceLayer],
                 shapes: Mapping[str, tuple[int, ...]] | None = None):
        if path.suffix.lower() == ".pt2":
            raise BadInput(f"{path}: only an ONNX model can be run beside a program; export the "
                           "model with torch.onnx.export and give that file")
        self._path = path
        self._layers = [layer for own in program.by_step(layers) for layer in own]
        graph = frontend.read(path, shapes)
        self._nodes = self._matched(graph, program)
        self._ends = [(node.reads[0], node.writes[0]) for node in self._nodes]
        file = onnx.load(path, load_external_data=False)
        load_external(file, path)
        self._written = _Model(path, file, graph, self._ends)
        if not all(self._written.joins(*each) for each in self._ends):
            again = frontend.apart(clean.load(path.read_bytes(), str(path), shapes or {}),
                                   str(path))
            again.model.graph.initializer.extend(
                numpy_helper.from_array(values, name) for name, values in again.weights.items())
            self._cleaned = _Model(path, again.model, graph, self._ends)

    def _matched(self, graph: Graph, program: Program) -> list[LayerNode]:
        """The model's layers of the program's names, which have its shapes."""
        nodes: dict[str, list[LayerNode]] = {}
        for group in integer.take(graph).groups:    # in the order of the program's steps
            for node in group:
                if isinstance(node, LayerNode):
                    nodes.setdefault(node.layer.name, []).append(node)
        found = []
        for layer in self._layers:
            if layer.name.endswith(SMOOTHED):
                raise BadInput(f"layer {layer.name} has other weights than {self._path}; compile "
                               "the model without smoothing to compare layers, or compare outputs "
                               "with eval --model")
            if not nodes.get(layer.name):
                raise self._other(f"has no layer {layer.name}, but the program does")
            found.append(nodes[layer.name].pop(0))
            own, wanted = found[-1].layer.matrix.shape, layer.weight.shape
            if own != wanted:
                raise self._other(f"has {_by(own)} weights in layer {layer.name}, but the program "
                                  f"has {_by(wanted)}")
        for what, names, ports in (("inputs", graph.inputs, program.inputs),
                                   ("outputs", graph.outputs, program.outputs)):
            sizes = [[graph.types[name].size for name in names],
                     [program.buffers[port.buffer].size for port in ports]]
            if sizes[0] != sizes[1]:
                raise self._other(f"has {what} of {sizes[0]} values, but the program of "
                                  f"{sizes[1]}")
        return found

    def _other(self, what: str) -> BadInput:
        return BadInput(f"{self._path} {what}; give the model that the program was compiled from")

    def compare(self, run: Run, given: Mapping[str, np.ndarray] | None) -> Opinion:
        """The opinion on what golden made of a batch: ``run`` is that of the traced program.

        ``given`` are the inputs as the model takes them, by name [samples, values], of which the
        run's were made; None where nothing but these is known.
        """
        program = run.program
        hosts = [step for step in program.steps if isinstance(step, HostStep)]
        sources = {step.writes[0]: step.reads[0] for step in hosts
                   if isinstance(step.rule, Convert)}
        patches = {step.writes[0]: step.reads[0] for step in hosts
                   if isinstance(step.rule, Patches)}
        ports = {port.buffer: port for port in program.inputs}
        opinions: list[LayerOpinion] = []
        found: list[Disagreement | None] = []
        for step in program.steps:
            if not isinstance(step, EngineStep):
                continue
            name, before = patches.get(step.reads[0], step.reads[0]), None
            source, x = sources.get(name, name), run.buffers[name]
            if name not in ports:
                kind = program.buffers[source]
                before = Units(kind.dtype.type, kind.scale, kind.zero_point).real(
                    run.buffers[source])
            elif given is not None:
                before = _real(given[ports[name].name], ports[name],
                               inputs(self._layers[len(opinions)]), program.batch)
            for name in step.writes:
                number, y = len(opinions), run.buffers[name]
                layer, geometry = self._layers[number], self._nodes[number].layer.geometry
                if step.reads[0] in patches:    # golden's rows are places of a convolution
                    y = fold(y.reshape(-1, layer.output.size), geometry).reshape(len(y), -1)
                if before is not None:
                    found.append(_converted(layer, x, before))
                opinion, wrong = self._layer(number, x, y, _sums_of(program, name))
                opinions.append(opinion)
                found.append(wrong)
                x, before = y, outputs(layer).real(y)
        return Opinion(tuple(opinions), next((each for each in found if each), None))

    def _layer(self, number: int, x: np.ndarray, y: np.ndarray,
               sums: Sequence[Sums]) -> tuple[LayerOpinion, Disagreement | None]:
        """The opinion on one layer, of which golden made y [runs, values] of x; ``sums`` are what
        host steps take them for, where they are the sums of a float layer."""
        layer, ends = self._layers[number], self._ends[number]
        units, cleaned = outputs(layer), not self._written.joins(*ends)
        model = self._cleaned if cleaned else self._written
        wanted, size = self._run(model, number, x), self._nodes[number].layer.outputs
        golden = units.real(y)
        if wanted.shape != golden.shape:
            raise self._other(f"gives {wanted.shape[1]} outputs in layer {layer.name}, but the "
                              f"program {golden.shape[1]}")
        if np.isnan(wanted).any():
            raise BadInput(f"{self._path}: layer {layer.name} gives outputs that are not numbers; "
                           "give inputs like those that the model was trained on")
        clipped = _clip(wanted, units, layer.activation)
        if sums:    # of what several steps make of them, that which is farthest off
            clipped = wanted
            golden = max((_scaled(y, each, size) for each in sums),
                         key=lambda each: np.abs(each - wanted).max())
        bound = np.broadcast_to(self._bound(number, x, y, model.kinds[ends[0]][0], sums),
                                (y.size // size, size)).reshape(y.shape)
        error = np.abs(golden - clipped)
        opinion = LayerOpinion(
            layer.name, y.size, float((error / bound).max()), float(error.max()),
            int(np.count_nonzero(clipped != wanted)), cleaned)
        return opinion, _disagreement(layer.name, "output", golden, clipped, bound)

    def _run(self, model: "_Model", number: int, x: np.ndarray) -> np.ndarray:
        """Outputs of one layer of the model, float64 [runs, values], on golden's inputs."""
        layer, ends = self._layers[number], self._ends[number]
        dtype, shape = model.kinds[ends[0]]
        runs, rest = divmod(prod(shape), x.shape[1])
        if rest or not runs:
            raise self._other(f"takes {prod(shape)} inputs in layer {layer.name}, but the "
                              f"program {x.shape[1]}")
        if dtype.kind == "f":
            real = inputs(layer).real(x).astype(dtype)
        else:
            real = (x.astype(np.int16) + 128 + np.iinfo(dtype).min).astype(dtype)
        compute = model.part(*ends)
        found = []
        for start in range(0, len(x), runs):
            some = real[start:start + runs]
            full = np.resize(some, (runs, x.shape[1])).reshape(shape)
            found.append(compute(full).reshape(runs, -1)[:len(some)])
        return np.concatenate(found).astype(np.float64)

    def _bound(self, number: int, x: np.ndarray, y: np.ndarray, dtype: np.dtype,
               sums: Sequence[Sums]) -> np.ndarray:
        """How far each output may be from what the float model computes of inputs of a type:
        float64, broadcasts to [rows, outputs]."""
        layer, own = self._layers[number], self._nodes[number].layer
        step, units = outputs(layer).scale, None
        if sums:
            step, units = NOTHING, sums[0].units.astype(np.float64)
        elif y.dtype == np.int32:
            return np.array([step / 2])
        real, columns = inputs(layer).real(x).reshape(-1, own.inputs), layer.weight.shape[1]
        # float64 gains nothing: the front end's weights are float32
        eps = np.finfo(np.float16 if dtype == np.float16 else np.float32).eps
        arithmetic = (columns + OPERATIONS) * float(eps) / 2
        deviation = registry.engine(layer.engine).deviation(layer, own, units)
        rows = max(1, BLOCK // columns)
        bounds = []
        for start in range(0, len(layer.weight), rows):
            some = slice(start, start + rows)
            found = deviation(some)
            bound = step * 2**-22 + _sums(np.abs(real), *_errors(found, own, some, arithmetic), own)
            if own.quantised:
                steps = _sums(real, found.weight, found.bias, own) / step
                tie = np.abs(steps - np.floor(steps) - 0.5) * step <= bound
                bound += np.where(tie, step, 0)
            else:
                bound += step / 2
            bounds.append(bound)
        return np.concatenate(bounds, axis=1)


class _Model:
    """An ONNX model whose values are known by name, to be cut between two of them.

    ``graph`` has the shapes of its inputs. ``kinds`` are the type and the shape of those values of
    ``ends`` that it has.
    """

    def __init__(self, path: Path, model: onnx.ModelProto, graph: Graph,
                 ends: Iterable[tuple[str, str]]):
        self._path, self._model, self._nodes = path, model, model.graph.node
        self._producers = {name: at for at, node in enumerate(self._nodes) for name in node.output}
        constants = {tensor.name for tensor in model.graph.initializer}
        self._zeros = {value.name: _zeros(value, graph.types[value.name].shape)
                       for value in model.graph.input if value.name not in constants}
        self.kinds = {name: (value.dtype, value.shape) for name, value in self._whole(
            {name for each in ends for name in each if name in self._producers}).items()}

    def _whole(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """The inputs and these values, where all inputs are zeros."""
        if not names:
            return self._zeros
        outputs = self._model.graph.output
        del outputs[:]
        outputs.extend(onnx.ValueInfoProto(name=name) for name in names)
        return self._zeros | dict(zip(
            names, self._session(self._model, list(names))(self._zeros), strict=True))

    def joins(self, begin: str, end: str) -> bool:
        """Whether the value ``end`` is computed from ``begin``."""
        return any(begin in self._nodes[at].input for at in self._between(begin, end))

    def _between(self, begin: str, end: str) -> list[int]:
        """The nodes that compute the value ``end``, but not those that compute ``begin``."""
        found: set[int] = set()
        wanted = [end]
        while wanted:
            name = wanted.pop()
            at = self._producers.get(name)
            if name not in ("", begin) and at is not None and at not in found:
                found.add(at)
                wanted += self._nodes[at].input
        return sorted(found)

    def part(self, begin: str, end: str) -> Compute:
        """What computes the value ``end``, as real values, from ``begin``.

        Other inputs of the model, whose shapes it may look at, are zeros.
        """
        nodes = [self._nodes[at] for at in self._between(begin, end)] + self._dequantised(end)
        read = {name for node in nodes for name in node.input}
        others = {name: value for name, value in self._zeros.items()
                  if name in read and name != begin}
        result = nodes[-1].output[0]
        kinds = {begin: self.kinds[begin][0]} | {name: x.dtype for name, x in others.items()}
        model = helper.make_model(helper.make_graph(
            nodes, "layer",
            [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), None)
             for name, dtype in kinds.items()],
            [onnx.ValueInfoProto(name=result)],
            [tensor for tensor in self._model.graph.initializer if tensor.name in read]),
            opset_imports=self._model.opset_import, ir_version=self._model.ir_version,
            functions=self._model.functions)
        run = self._session(model, [result])
        return lambda x: run({begin: x, **others})[0]

    def _dequantised(self, name: str) -> list[onnx.NodeProto]:
        """What makes a value of int8 or uint8 real, by the scale that the model gives it."""
        if self.kinds[name][0] not in (np.int8, np.uint8):
            return []
        node = self._nodes[self._producers[name]]
        while node.op_type not in GRIDS:    # it only moves values
            node = self._nodes[self._producers[node.input[0]]]
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


def _real(given: np.ndarray, port: Port, units: Units, batch: int) -> np.ndarray:
    """Inputs [samples, values] as a model takes them, of which an engine's were made that count in
    ``units``: as real values [runs, values]."""
    values = batched(given, batch)
    if port.dtype not in ("int8", "uint8"):
        return values.astype(np.float64)
    # an engine takes the integers of uint8 less 128
    return units.real(values.astype(np.int64) - 128 - np.iinfo(values.dtype).min)


def _zeros(value: onnx.ValueInfoProto, shape: Sequence[int]) -> np.ndarray:
    """An input of a model; ``shape`` has the sizes that the model leaves open."""
    kind = value.type.tensor_type
    sizes = [dim.dim_value or size for dim, size in zip(kind.shape.dim, shape, strict=True)]
    return np.zeros(sizes, helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _sums(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, own: Layer) -> np.ndarray:
    """Outputs of some rows of a layer before its activation, float64 [rows, outputs]."""
    products = x @ weight.T if own.geometry is None else convolve(x, weight, own.geometry, 0)
    return products + np.repeat(bias, products.shape[1] // len(bias))


def _sums_of(program: Program, name: str) -> list[Sums]:
    """What host steps take the sums in a buffer for; nothing where it holds none."""
    found = [Sums.of(step.session.model, at) for step in program.steps
             if isinstance(step, OperatorStep) for at, each in enumerate(step.reads)
             if each == name]
    return [each for each in found if each is not None]


def _scaled(y: np.ndarray, sums: Sums, size: int) -> np.ndarray:
    """Real values of sums [runs, values] of so many outputs, float64."""
    units = np.repeat(sums.units.astype(np.float64), size // len(sums.units))
    real = (y.reshape(-1, size) * units).reshape(y.shape)
    return np.maximum(real, 0) if sums.relu else real


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


def _converted(layer: ReferenceLayer, x: np.ndarray, before: np.ndarray) -> Disagreement | None:
    """Where a layer's integers are not the nearest of the real values that they were made of."""
    units = inputs(layer)
    return _disagreement(layer.name, "input", units.real(x), _clip(before, units),
                         (0.5 + 2**-30) * units.scale)


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


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
