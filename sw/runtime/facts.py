"""What there is to tell of a program, step by step, and of a run of it: for tables and pages.

What a program's types and images say is counted from them: multiplications, operations and bytes of
a sample. Cycles, utilisation and saturated outputs are what a run's counters said, and None without
a run, or where nothing counts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod

import numpy as np

from zeroskip.sw.compiler.program import EngineStep, HostStep, OperatorStep, Program
from zeroskip.sw.compiler.targets import name_of
from zeroskip.sw.engines.base import ReferenceLayer, Result


@dataclass(frozen=True)
class LayerFacts:
    """A layer of an engine.

    Attributes
    ----------
    name : str
    shape : list of int
        Of its weights as a matrix, [out, K].
    pattern : str or None
        In which its weights are stored.
    density : float
        Share of its weights that are not zero.
    multiplications : float
        Of a sample, those by zero too.
    bytes : int or None
        Of its weights and their places, as they are stored.
    error : float or None
        The greatest difference of its outputs from those of the float layer, on the same inputs;
        None where no float model is known.
    """

    name: str
    shape: list[int]
    pattern: str | None
    density: float
    multiplications: float
    bytes: int | None
    error: float | None = None


@dataclass(frozen=True)
class Counts:
    """What counters said of layers that are counted together; all that is None is not counted.

    Attributes
    ----------
    layers : int
        How many.
    cycles : float or None
        Of a sample.
    utilisation : float or None
        Useful multiplications over multipliers times cycles.
    speedup : float or None
        All multiplications, those by zero too, over multipliers times cycles: how much slower as
        many multipliers are that skip nothing and never wait.
    saturated : int or None
        Outputs, of all samples.
    """

    layers: int
    cycles: float | None = None
    utilisation: float | None = None
    speedup: float | None = None
    saturated: int | None = None


@dataclass(frozen=True)
class StepFacts:
    """A step.

    Attributes
    ----------
    engine : str
        Its name, or ``"host"``.
    target : str or None
        The name of its configuration.
    reads, writes : tuple of str
        Buffers.
    moved : float
        Bytes that it reads and writes for a sample.
    layers : tuple of LayerFacts
    counts : tuple of Counts
        Of the layers, in order.
    operators : tuple of str
        Of the host: its rule, or ONNX operators.
    operations : float
        Of the host, for a sample: multiplications of products, and one for each value that any
        other operator gives.
    """

    engine: str
    target: str | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    moved: float
    layers: tuple[LayerFacts, ...] = ()
    counts: tuple[Counts, ...] = ()
    operators: tuple[str, ...] = ()
    operations: float = 0

    def as_json(self) -> dict:
        """Plain numbers for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class Totals:
    """The sums of a program; see :class:`StepFacts`.

    Attributes
    ----------
    multiplications, operations : float
        Of the engines, and of the host, for a sample.
    host_operations, host_moved : float
        The host's share of all operations, and of the bytes that all steps read and write.
    cycles : float or None
        Of a sample.
    speedup : float or None
        Of the engines that count, weighed by their cycles.
    """

    multiplications: float
    operations: float
    host_operations: float
    host_moved: float
    cycles: float | None
    speedup: float | None


def steps(program: Program, results: Sequence[Result] = (),
          errors: Sequence[float] = ()) -> tuple[StepFacts, ...]:
    """What there is to tell of each step; ``results`` are those of a run, ``errors`` those of each
    layer, in order."""
    ran, apart, found = iter(results), iter(errors), []
    unpacked = {id(image): tuple(image.unpacked()) for image in program.images}
    for step in program.steps:
        moved = sum(program.buffers[name].size * program.buffers[name].dtype.itemsize
                    for name in (*step.reads, *step.writes)) / program.batch
        if isinstance(step, EngineStep):
            layers = tuple(replace(layer, error=next(apart, None))
                           for layer in _layers(program, step, unpacked[id(step.image)]))
            found.append(StepFacts(step.image.engine, name_of(step.image.config), step.reads,
                                   step.writes, moved, layers,
                                   _counts(program, step, layers, next(ran, None))))
        else:
            found.append(StepFacts("host", None, step.reads, step.writes, moved,
                                   operators=_operators(step),
                                   operations=_operations(program, step) / program.batch))
    return tuple(found)


def totals(found: Sequence[StepFacts]) -> Totals:
    """The sums of some steps."""
    engines = sum(layer.multiplications for step in found for layer in step.layers)
    host, moved = sum(step.operations for step in found), sum(step.moved for step in found)
    counts = [each for step in found for each in step.counts]
    known = bool(counts) and all(each.cycles is not None for each in counts)
    cycles = sum(each.cycles or 0 for each in counts) if known else None
    return Totals(
        engines, host, host / max(1, engines + host),
        sum(step.moved for step in found if step.engine == "host") / max(1, moved), cycles,
        cycles and sum((each.speedup or 0) * (each.cycles or 0) for each in counts) / cycles)


def _layers(program: Program, step: EngineStep,
            unpacked: Sequence[ReferenceLayer]) -> list[LayerFacts]:
    image, rows = step.image, program.rows(step) / program.batch
    found = []
    for layer, own in zip(image.layers, unpacked, strict=True):
        pattern, size = image.stored(layer)
        found.append(LayerFacts(
            layer.name, list(own.weight.shape), pattern,
            float(np.count_nonzero(own.weight) / own.weight.size),
            rows * own.output.size * own.weight.shape[1], size))
    return found


def _counts(program: Program, step: EngineStep, layers: Sequence[LayerFacts],
            result: Result | None) -> tuple[Counts, ...]:
    """Of a step's layers, each alone where the core counts them so."""
    if result is None:
        return (Counts(len(layers)),)
    statistics = result.statistics
    if statistics is None:
        return (Counts(len(layers), saturated=result.saturated),)
    samples = statistics.images / program.rows(step) * program.batch
    work = [layer.multiplications for layer in layers]
    parts: list[tuple[int, float, float, float, int]]
    if statistics.layers:
        parts = [(1, wanted, own["cycles"], own["useful"], own["saturated"])
                 for wanted, own in zip(work, statistics.layers, strict=True)]
    else:
        useful = statistics.utilisation * statistics.multipliers * statistics.cycles
        parts = [(len(layers), sum(work), statistics.cycles, useful, statistics.saturated)]
    return tuple(
        Counts(count, cycles / samples, useful / max(1, statistics.multipliers * cycles),
               wanted * samples / max(1, statistics.multipliers * cycles), saturated)
        for count, wanted, cycles, useful, saturated in parts)


PRODUCTS = {"MatMul": -2, "MatMulInteger": -2, "QLinearMatMul": -2, "Gemm": -2}
"""Operators that multiply matrices, and the dimension of their second operand that is summed."""

CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Operators that are convolutions, and which operand is their weights."""

RECURRENT = ("GRU", "LSTM", "RNN")
"""Operators that multiply by their second and third operand in every step of time."""


def _operators(step: HostStep | OperatorStep) -> tuple[str, ...]:
    if isinstance(step, HostStep):
        return (step.rule.name,)
    return tuple(node.op_type for node in step.session.graph().node)


def _operations(program: Program, step: HostStep | OperatorStep) -> int:
    if not isinstance(step, OperatorStep):
        return sum(program.buffers[name].size for name in step.writes)
    graph = step.session.graph()
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer} | {
        value.name: [each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)}
    return sum(_work(node, shapes) for node in graph.node)


def _work(node, shapes: dict[str, list[int]]) -> int:
    """Operations of a node."""
    given = [shapes.get(name, []) for name in node.input]
    made = prod(shapes.get(node.output[0], []))
    if node.op_type in PRODUCTS:
        second = given[3 if node.op_type.startswith("QLinear") else 1]
        turned = any(each.name == "transB" and each.i for each in node.attribute)
        return made * (second[-1] if turned else second[-2] if len(second) > 1 else second[0])
    if node.op_type in CONVOLUTIONS:
        return made * prod(given[CONVOLUTIONS[node.op_type]][1:])
    if node.op_type == "ConvTranspose":
        return prod(given[0]) * prod(given[1][1:])
    if node.op_type in RECURRENT:
        return prod(given[0][:2]) * (prod(given[1]) + prod(given[2]))
    return made
