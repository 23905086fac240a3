"""``torch.compile(module, backend="zeroskip")``: what torch captures of a module, on the engines.

torch finds :func:`backend` by the entry point ``torch_dynamo_backends``. Each graph that it
captures becomes a program on its first call, with its weights as constants; where that cannot be,
torch computes the graph itself, and a warning says why. Options are those of :data:`OPTIONS`.

A graph of an open batch becomes one program for any number of samples, if they do not depend on one
another; any other one a program for just its shapes. Importing this switches off the fast path of
torch's attention, which would come as one operator that nothing can look into.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils.weak import WeakTensorKeyDictionary

from zeroskip.sw.api import program as api
from zeroskip.sw.api.apart import check_apart
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import from_torch
from zeroskip.sw.runtime import backends

OPTIONS = {
    "target": "a configuration, or several, as zeroskip.compile takes them",
    "engine": "the engine of all layers",
    "batch": "samples that a tensor core takes together",
    "backend": "what runs the programs, golden by default",
    "calibration": "how many samples set the scales: torch computes until so many have come",
}
"""Keys of ``torch.compile(..., options={})``."""

torch.backends.mha.set_fastpath_enabled(False)

_seen = WeakTensorKeyDictionary()
"""By the first weight of a graph, and what tells its inputs from others': samples. A graph that
torch captures anew, for another batch, takes those of the one before."""


def backend(graph: GraphModule, examples: Sequence[Any], *,
            options: Mapping[str, Any] | None = None) -> "_Captured":
    """What computes a graph that torch captured; ``BadInput`` for options that are none."""
    given = dict(options or {})
    for name in given:
        if name not in OPTIONS:
            raise BadInput(f"there is no option {name!r}; choose of {', '.join(OPTIONS)}")
    runs, wanted = given.pop("backend", "golden"), given.pop("calibration", None)
    if runs not in backends.NAMES:
        raise BadInput(f"there is no backend '{runs}'; choose one of {', '.join(backends.NAMES)}")
    if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
        raise BadInput("the option 'calibration' is how many samples set the scales, 1 or more, "
                       f"not {wanted!r}")
    captured = _Captured(graph, given, runs, wanted)
    if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad
                                       for each in examples):
        captured.leave("the engines give no gradients; call the module under torch.no_grad()")
    return captured


backend.reset = _seen.clear     # type: ignore[attr-defined] # torch._dynamo.reset() calls it


@dataclass(frozen=True, eq=False)
class _Ready:
    """A program for some inputs of a graph.

    ``whole`` says that all values together are one sample of it; ``like`` are outputs that torch
    gave.
    """

    program: api.Program
    whole: bool
    like: Sequence[Tensor]

    def __call__(self, inputs: Sequence[Tensor], runs: str) -> list[Tensor]:
        given = [each.detach().cpu()[None] if self.whole else each.detach().cpu()
                 for each in inputs]
        found = self.program(*given, backend=runs)
        arrays = list(found.values()) if isinstance(found, dict) else [found]
        if len(arrays) != len(self.like):
            raise BadInput("two of its outputs are one value")
        return [self._as(torch.from_numpy(y[0] if self.whole else y), own)
                for y, own in zip(arrays, self.like, strict=True)]

    def _as(self, y: Tensor, own: Tensor) -> Tensor:
        """An output of the program as torch gives it, with or without dimensions of 1."""
        shape = own.shape if self.whole else (len(y), *own.shape[1:])
        if [size for size in y.shape if size != 1] != [size for size in shape if size != 1]:
            raise BadInput("the batch is not the first dimension of all that it gives")
        return y.reshape(shape).to(own.device, own.dtype)


class _Captured:
    """A graph, and the programs that it became."""

    def __init__(self, graph: GraphModule, target: dict[str, Any], runs: str, wanted: int | None):
        self._graph, self._target, self._runs, self._wanted = graph, target, runs, wanted
        self._places, self._eager = _Places(graph), False
        self._programs: dict[tuple, _Ready] = {}
        self._weights: list[tuple] = []

    def leave(self, why: str) -> None:
        """Leaves the graph to torch."""
        self._eager = True
        _warn(f"torch computes what it captured here, and no engine: {why}")

    def __call__(self, *args: Any) -> Sequence[Any]:
        """Outputs as the graph gives them."""
        free = [args[at] for at in self._places.free]
        if self._eager or any(not each.numel() for each in free):
            return self._graph(*args)
        weights = [_state(args[at]) for at in self._places.weights]
        if weights != self._weights:
            self._programs, self._weights = {}, weights
        ready = self._programs.get(self._places.key(args))
        if ready is None:
            return self._first(args, free)
        return self._merged(args, ready(free, self._runs))

    def _merged(self, args: Sequence[Any], computed: Sequence[Tensor]) -> list[Any]:
        """All outputs, with the inputs among them."""
        left = iter(computed)
        return [next(left) if at is None else args[at] for at in self._places.outputs]

    def _first(self, args: Sequence[Any], free: Sequence[Tensor]) -> Sequence[Any]:
        """Outputs of a call that there is no program for; torch computes them too."""
        tensors = [each for each in args if isinstance(each, Tensor)]
        before = list(map(_state, tensors))
        expected = self._graph(*args)
        if list(map(_state, tensors)) != before:
            self.leave("it changes its inputs or its buffers")
            return expected
        self._eager = not self._places.weights      # nothing that an engine would compute
        samples, own = (None, False) if self._eager else self._samples(args, free)
        if samples is None:
            return expected
        try:
            with torch.no_grad():
                ready = self._compiled(args, free, samples, expected)
            found = self._merged(args, ready(free, self._runs))
        except BadInput as error:
            self.leave(str(error))
            return expected
        self._programs[self._places.key(args)] = ready
        if own:
            _warn(f"the {len(samples[0])} samples of this call set the scales of what torch "
                  "captured here; give more that are typical, or options={'calibration': 256}")
        return found

    def _samples(self, args: Sequence[Any],
                 free: Sequence[Tensor]) -> tuple[Sequence[Tensor] | None, bool]:
        """What sets the scales of a program for these inputs, None before enough have come; and
        whether nobody said that they are enough."""
        held = _seen.setdefault(args[self._places.weights[0]], {})
        key = ([str(node.target) for node in self._graph.graph.nodes if "call" in node.op],
               self._places.names, [each.shape[1:] for each in free], self._target, self._wanted)
        samples, done = held.get(repr(key), ((), False))
        if done:
            return samples, False
        new = [each.detach().clone() for each in free]
        samples = [torch.cat(both) for both in zip(samples, new, strict=True)] if samples else new
        done = self._wanted is None or len(samples[0]) >= self._wanted
        held[repr(key)] = samples, done
        return (samples if done else None), self._wanted is None

    def _compiled(self, args: Sequence[Any], free: Sequence[Tensor], samples: Sequence[Tensor],
                  expected: Sequence[Any]) -> _Ready:
        places = self._places
        if any(at is None and not isinstance(y, Tensor)
               for at, y in zip(places.outputs, expected, strict=True)):
            raise BadInput("it gives numbers beside tensors, which no program does")
        if any(each.dtype == torch.bfloat16 for each in free):
            raise BadInput("it takes bfloat16, which no program does; call .float() on both")
        module = _constant(self._graph, places, args)
        graph = from_torch(module, free, fixed=not places.open)
        whole = [graph.types[name].shape for name in graph.inputs] != [
            (graph.batch, *each.shape[1:]) for each in free]
        computed = [y for at, y in zip(places.outputs, expected, strict=True) if at is None]
        if places.open and (whole or graph.batch > 1):
            places.open = False     # a program for each batch
        if places.open and len(free[0]) > 1:
            check_apart(module, free, "compile it with dynamic=False")
        given = [each[None] for each in free] if whole else samples
        return _Ready(api.compile(graph, *given, **self._target), whole, computed)


class _Places:
    """What the inputs and outputs of a graph are.

    Attributes
    ----------
    weights, free : list of int
        Inputs that are a module's, and the others that are tensors.
    sizes : dict of int to tuple
        Inputs that are a size of a free one: which, and of which dimension.
    names : list of str
        What torch calls the free ones.
    paths : dict of int to str
        The name of a weight in its module.
    outputs : list of int or None
        The input that an output is; None of one that is computed.
    open : bool
        Whether the first size of the free ones may change.
    """

    def __init__(self, graph: GraphModule):
        nodes = list(graph.graph.find_nodes(op="placeholder"))
        values = [node.meta.get("example_value") for node in nodes]
        fixed = [_is_weight(node) for node in nodes]
        self.weights = [at for at, own in enumerate(fixed) if own]
        self.free = [at for at, value in enumerate(values)
                     if isinstance(value, Tensor) and not fixed[at]]
        where = {str(size): (at, dim) for at in reversed(self.free)
                 for dim, size in enumerate(values[at].shape) if isinstance(size, torch.SymInt)}
        self.sizes = {at: where[str(value)] for at, value in enumerate(values)
                      if str(value) in where and isinstance(value, torch.SymInt)}
        self._others = [at for at, value in enumerate(values)
                        if not isinstance(value, Tensor) and at not in self.sizes]
        self.names = [_source(nodes[at]) for at in self.free]
        self.paths = {at: _path(_source(nodes[at]), f"weight{at}") for at in self.weights}
        (output,) = graph.graph.find_nodes(op="output")
        self.outputs = [nodes.index(node) if node in nodes else None for node in output.args[0]]
        self.open = bool(self.free) and all(
            values[at].ndim and isinstance(values[at].shape[0], torch.SymInt) for at in self.free)

    def key(self, args: Sequence[Any]) -> tuple:
        """What tells a call that another program is for."""
        return (*(args[at].shape[int(self.open):] for at in self.free),
                *(args[at] for at in self._others))


def _constant(graph: GraphModule, places: _Places, args: Sequence[Any]) -> GraphModule:
    """A graph as a function of its free inputs alone, that gives what it computes."""
    made, held = Graph(), {}
    nodes = list(graph.graph.nodes)
    known: dict[Node, Any] = {nodes[at]: made.placeholder(f"input{number}")
                              for number, at in enumerate(places.free)}
    for at, arg in enumerate(args):
        if at in places.sizes:
            tensor, dim = places.sizes[at]
            known[nodes[at]] = made.call_method("size", (known[nodes[tensor]], dim))
        elif at in places.paths:
            name = places.paths[at]
            held[name] = arg.detach()
            known[nodes[at]] = made.get_attr(name)
        else:
            known.setdefault(nodes[at], arg)
    for node in nodes[len(args):-1]:
        known[node] = made.node_copy(node, known.__getitem__)
        if node.op in ("call_module", "get_attr"):
            held[node.target] = attrgetter(node.target)(graph)
    made.output(tuple(known[node] for at, node in
                      zip(places.outputs, nodes[-1].args[0], strict=True) if at is None))
    return GraphModule(held, made)


def _is_weight(node: Node) -> bool:
    return "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})


def _source(node: Node) -> str:
    """What torch calls an input, such as ``L['self']._modules['fc']._parameters['weight']``."""
    source = getattr(node, "_dynamo_source", None)
    return str(getattr(source, "name", node.name))


def _path(source: str, other: str) -> str:
    """Where in its module a weight is, if its source says so."""
    found = re.fullmatch(r"L\['self'\]((?:\._\w+\['\w+'\])+)", source)
    return ".".join(re.findall(r"'(\w+)'", found[1])) if found else other


def _state(tensor: Tensor) -> tuple:
    """Changes where a tensor is replaced, or written to; the sum sees what torch does not count."""
    return (id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version,
            repr(tensor.detach().sum().item()) if tensor.numel() else "")


def _warn(text: str) -> None:
    warnings.warn(f"zeroskip: {text}", stacklevel=2)
