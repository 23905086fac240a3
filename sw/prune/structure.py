"""Structured pruning that shrinks the layers: units leave the network, and shapes change.

=========== ================================ ==================================================
granularity a name in ``keep``               its units
=========== ================================ ==================================================
channel     a Conv2d                         its filters
neuron      a Linear                         its outputs
head        an attention: a module with      its heads
            ``num_heads`` or
            ``num_attention_heads``
depth       a container: nn.Sequential, ...  its blocks: the children that hold a Linear or Conv2d
=========== ================================ ==================================================

Layers whose outputs are added shrink together, a batch norm with what is before it, and what reads
a unit loses that input. torch-pruning traces which these are. What it cannot trace it takes for an
operation on single elements, so nothing here is believed before it is tried: the shrunk network
computes what the masked one does, in which the same units are zero, or is refused.

The heads of an attention are those of three Linear layers q, k and v, or of one with all three
behind each other; its forward must take sizes from the number of heads. In depth a block goes
whole, and only if it returns one tensor like its one argument: a residual block that is left out
equals one whose weights are zero, where its shortcut is plain and no ReLU behind the sum meets
negative inputs; any other layer does not, so depth is not compared.

Sources: Fang et al., "DepGraph: Towards Any Structural Pruning" (arXiv 2301.12900), section 3, for
the layers that shrink together; Li et al., "Pruning Filters for Efficient ConvNets" (arXiv
1608.08710), section 3, for filters by their sums; Michel et al., "Are Sixteen Heads Really Better
than One?" (arXiv 1905.10650), for heads.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.prune.statistics import apply, watched
from zeroskip.sw.prune.train import layers

ROUNDING = 1e-4
"""Greatest difference that passes for float32 rounding, as part of the greatest output."""

KINDS = {"channel": nn.Conv1d | nn.Conv2d, "neuron": nn.Linear}
HEADS = ("num_heads", "num_attention_heads")
GRANULARITIES = (*KINDS, "head", "depth")

PRODUCTS = ("BmmBackward", "ScaledDotProduct")
"""What marks an attention among the nodes of torch's graph."""

NO_PROJECTION = "it has no Linear layers, or several, whose outputs meet in one product"

PLAIN = ("Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "Hardtanh", "Gelu", "Silu", "Tanh",
         "MaxPool", "AvgPool", "Adaptive", "Clone", "TBackward")
"""Beginnings of the nodes that are not named when a trial fails: they keep zeros and channels."""


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller network.

    Attributes
    ----------
    module : nn.Module
        A copy; parameters that were frozen and parts in training mode still are.
    kept : dict of bool tensor
        By the name of each Linear, Conv2d and batch norm that lost outputs, which of them stay,
        [out] in the network before; by the name of each block of a container one bool.
    """

    module: nn.Module
    kept: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Change:
    """What becomes of the layers in ``layers``, which shrink together.

    ``before`` and ``after`` count units. ``reason`` is None, or why this cannot be.
    """

    layers: tuple[str, ...]
    before: int
    after: int
    reason: str | None


def remove(
    module: nn.Module,
    example: Any,
    granularity: str,
    keep: dict[str, float | torch.Tensor],
    scores: dict[str, torch.Tensor] | None = None,
    *,
    run: Callable[[nn.Module, Any], torch.Tensor] = apply,
) -> Shrunk:
    """A copy of ``module`` without the units of the least score, compared on ``example``.

    Parameters
    ----------
    example : batch
        What ``run(module, batch)`` sends through; as a rule it is the module's argument.
    granularity : str
        One of ``GRANULARITIES``.
    keep : dict
        By name the fraction of the units that stay, in (0, 1], at least one; or a bool tensor
        [units], true at what stays. Of layers that shrink together one is enough.
    scores : dict of tensor
        As :func:`zeroskip.sw.prune.scores.scores` gives them, by the name of a Linear or Conv2d
        like its weight; for densities. A unit has the sum over its rows in all layers that shrink
        together, a block that over its layers; of equal ones the first stay.

    Raises
    ------
    BadInput
        Names the layer that is unknown or cannot lose units, and why.
    ToolMissing
        Without torch-pruning.
    """
    cuts = _cuts(module, example, granularity, keep, scores or {}, run)
    for cut in cuts:
        if cut.reason:
            raise _refusal(cut, cut.reason)
    try:
        return _checked(module, example, cuts, run)
    except _Failed as error:
        for cut in cuts:
            reason = _trial(module, example, cut, run)
            if reason:
                raise _refusal(cut, reason) from error
        raise BadInput(f"{error}, though each layer alone can be pruned so; prune them one by "
                       "one.") from error


def plan(
    module: nn.Module,
    example: Any,
    granularity: str,
    keep: dict[str, float | torch.Tensor],
    *,
    run: Callable[[nn.Module, Any], torch.Tensor] = apply,
) -> list[Change]:
    """What :func:`remove` would do, each tried alone on a copy; needs no scores.

    Raises BadInput for names, densities and masks that are wrong in themselves.
    """
    cuts = _cuts(module, example, granularity, keep, None, run)
    return [Change(cut.layers, len(cut.mask), int(cut.mask.sum()),
                   cut.reason or _trial(module, example, cut, run)) for cut in cuts]


def readers(module: nn.Module, example: Any, name: str, *,
            run: Callable[[nn.Module, Any], torch.Tensor] = apply) -> list[str]:
    """The layers that read what the layer ``name`` writes, but for functions between them."""
    copy, graph = _traced(module, example, run)
    layer = copy.get_submodule(name)
    items = _group(graph, layer, range(len(layer.weight))) if layer in graph.module2node else []
    return [graph._module2name[item.dep.target.module] for item in items
            if graph.is_in_channel_pruning_fn(item.dep.handler)
            and isinstance(item.dep.target.module, nn.Linear | nn.Conv1d | nn.Conv2d)]


@torch.no_grad()
def masked(module: nn.Module, kept: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of ``module`` in which what is not in ``kept``, as in :class:`Shrunk`, is zero:
    weights, biases, scale and shift."""
    module = deepcopy(module)
    for name, mask in kept.items():
        for parameter in module.get_submodule(name).parameters():
            parameter[~mask] = 0
    return module


@torch.no_grad()
def equivalent(
    masked: nn.Module,
    shrunk: nn.Module,
    batches: Iterable,
    *,
    run: Callable[[nn.Module, Any], torch.Tensor] = apply,
) -> float:
    """Greatest difference between the outputs of two networks, in eval mode.

    Raises BadInput where it is above ``ROUNDING`` times the greatest output of a batch.
    """
    worst = 0.0
    with watched(masked, []), watched(shrunk, []):
        for batch in batches:
            expected, result = run(masked, batch), run(shrunk, batch)
            if result.shape != expected.shape:
                raise BadInput(f"the shrunk network returns {list(result.shape)}, the masked one "
                               f"{list(expected.shape)}; look for a fixed size in its forward.")
            difference = float((result - expected).abs().max())
            bound = ROUNDING * float(expected.abs().max())
            if not difference <= bound:
                raise BadInput(f"the shrunk network differs from the masked one by {difference:.3g}"
                               f", more than the {bound:.3g} of rounding; look for an operation "
                               "that mixes channels or makes something of zeros.")
            worst = max(worst, difference)
    return worst


@dataclass
class _Cut:
    """The removal of some units.

    ``mask`` [units] is true at what stays; ``reason`` says why it cannot be, if so. Of a layer
    ``root`` and its ``outputs`` are what torch-pruning removes; of a container there is no root.
    """

    layers: tuple[str, ...]
    mask: torch.Tensor
    reason: str | None = None
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    root: str | None = None
    outputs: list[int] = field(default_factory=list)
    attention: str | None = None
    suspects: tuple[str, ...] = ()


class _Failed(Exception):
    """The shrunk network does not do what the masked one does."""


def _refusal(cut, reason):
    return BadInput(f"{' and '.join(map(repr, cut.layers))} cannot be pruned as asked: {reason}; "
                    "take it out of keep.")


def _cuts(module, example, granularity, keep, scores, run) -> list[_Cut]:
    """What to remove, by ``keep``; without ``scores`` the first units stay."""
    if granularity not in GRANULARITIES:
        raise BadInput(f"there is no granularity {granularity!r} that changes shapes; choose one "
                       f"of {', '.join(GRANULARITIES)}.")
    known = _candidates(module, granularity)
    for name in keep:
        if name not in known:
            raise BadInput(f"keep names {name!r}, which has no units for granularity "
                           f"{granularity!r}; those that have are {', '.join(map(repr, known))}.")
    if granularity == "depth":
        shapes = _shapes(module, example, run)
        return [_of_container(module, name, wanted, scores, shapes)
                for name, wanted in keep.items()]
    copy, graph = _traced(module, example, run)
    cuts, asked = [], {}
    for name, wanted in keep.items():
        part = copy.get_submodule(name)
        if granularity == "head":
            layer = _projection(graph, part)
            if layer is None:
                heads = getattr(part, _head_name(part))
                cuts.append(_Cut((name,), _chosen(name, wanted, heads, None), NO_PROJECTION))
                continue
            group = _Group(graph, layer, part)
        else:
            group = _Group(graph, part)
        cut = group.cut(name, wanted, scores)
        for other, (own, mask) in asked.items():
            if set(group.layers) & set(own) and not (
                    group.layers == own and torch.equal(cut.mask, mask)):
                raise BadInput(f"{other!r} and {name!r} shrink together, and keep asks for both "
                               "but not for the same; leave one of them out.")
        if group.layers not in [own for own, _ in asked.values()]:
            cuts.append(cut)
            asked[name] = (group.layers, cut.mask)
    return cuts


def _candidates(module, granularity) -> list[str]:
    """The names that ``keep`` may have."""
    if granularity in KINDS:
        return [name for name, layer in layers(module).items()
                if isinstance(layer, KINDS[granularity])]
    if granularity == "head":
        return [name for name, part in module.named_modules() if _head_name(part)]
    return [name for name, part in module.named_modules() if _blocks(module, name)]


def _chosen(name, wanted, count, score) -> torch.Tensor:
    """The mask [count] of the ``wanted`` units; ``score()`` is [count], None: all are equal."""
    if isinstance(wanted, torch.Tensor):
        if wanted.dtype != torch.bool or wanted.shape != (count,) or not wanted.any():
            raise BadInput(f"the mask of {name!r} is {wanted.dtype} {list(wanted.shape)}; it must "
                           f"be bool [{count}], true at what stays, at least once.")
        return wanted
    if not isinstance(wanted, float | int) or not 0 < wanted <= 1:
        raise BadInput(f"keep of {name!r} must be a density above 0 and at most 1, or a bool "
                       f"tensor, not {wanted!r}.")
    score = torch.zeros(count) if score is None else score()
    best = score.argsort(descending=True, stable=True)[:max(1, round(wanted * count))]
    return torch.zeros(count, dtype=torch.bool).index_fill(0, best, True)


# layers, by torch-pruning


def _traced(module, example, run):
    """A copy of ``module`` in eval mode with gradients, and torch-pruning's graph of it."""
    try:
        import torch_pruning
    except ModuleNotFoundError as error:
        raise ToolMissing("removing channels, neurons and heads needs torch-pruning; install it "
                          "with pip install 'zeroskip[train]'.") from error
    copy = deepcopy(module).eval().requires_grad_(True)
    try:
        with torch.enable_grad():
            return copy, torch_pruning.DependencyGraph().build_dependency(
                copy, example, forward_fn=run, verbose=False)
    except Exception as error:
        raise _unusable(error) from error


class _Group:
    """What shrinks together with ``layer``, part of a traced module.

    Attributes
    ----------
    layers : tuple of str
        The Linear and Conv2d layers that lose outputs.
    count : int
        Units.
    unit : int64 tensor [out]
        Which unit each output of ``layer`` belongs to: itself, or a head of ``attention``.
    reason : str or None
        Why it cannot shrink, as far as that is known without a trial.
    """

    def __init__(self, graph, layer, attention=None):
        self.graph, self.names = graph, graph._module2name
        self.root, self.attention = self.names[layer], attention and self.names[attention]
        outputs = len(layer.weight)
        known = layer in graph.module2node
        self.items = list(_group(graph, layer, range(outputs))) if known else []
        losing = [target.module for target, _ in self._losing()
                  if isinstance(target.module, nn.Linear | nn.Conv1d | nn.Conv2d)] or [layer]
        self.layers = tuple(name for part, name in self.names.items() if part in losing)
        self.reason = self._reason()
        self.count, self.unit = outputs, torch.arange(outputs)
        if attention is not None:
            self.count = getattr(attention, _head_name(attention))
            width = outputs // {1: 3}.get(len(losing), 1)
            if (len(losing) not in (1, 3) or {len(part.weight) for part in losing} != {outputs}
                    or width % self.count):
                self.reason = (f"its projections {', '.join(self.layers)} are neither three with "
                               f"{self.count} heads nor one of all three")
            else:
                self.unit = self.unit % width // (width // self.count)

    def cut(self, name, wanted, scores) -> _Cut:
        """The removal of all units of ``name`` but the ``wanted``."""
        count, layers = self.count, self.layers if self.attention is None else (name,)
        if self.reason:
            return _Cut(layers, _chosen(name, wanted, count, None), self.reason)
        mask = _chosen(name, wanted, count, lambda: self._score(name, count, scores))
        stays, kept = mask[self.unit], {}
        for target, item in self._losing():
            if isinstance(target.module, nn.Module) and list(target.module.parameters()):
                own = torch.ones(self.graph.get_out_channels(target), dtype=torch.bool)
                own[item.idxs] = stays[item.root_idxs]
                kept[self.names[target.module]] = own
        return _Cut(layers, mask, None, kept, self.root,
                    (~stays).nonzero().flatten().tolist(), self.attention, self._suspects())

    def _losing(self):
        """Nodes that lose outputs, with their items of the group."""
        return [(item.dep.target, item) for item in self.items
                if self.graph.is_out_channel_pruning_fn(item.dep.handler)]

    def _score(self, name, count, scores):
        total = torch.zeros(count)
        if scores is None:
            return total
        found = False
        for target, item in self._losing():
            score = scores.get(self.names.get(target.module))
            if score is not None:
                units = self.unit[item.root_idxs]
                total.index_add_(0, units, score.flatten(1).sum(1)[item.idxs])
                found = True
        if not found:
            raise BadInput(f"{name!r} has a density but no scores; give those of "
                           f"{' or '.join(map(repr, self.layers))}.")
        return total

    def _reason(self):
        if not self.items:
            return "the example does not reach it, or no gradient comes back"
        if any(not target.outputs for target, _ in self._losing()):
            return "the outputs are those of the network"
        if self.attention is None and _product(self.items):
            return "the outputs meet those of others in a product; choose granularity head"
        for item in self.items:
            part = item.dep.target.module
            if isinstance(part, nn.Parameter):
                return (f"parameter {self.graph._param_to_name[part]!r} belongs to no layer that "
                        "torch-pruning knows")
            if isinstance(part, nn.Conv1d | nn.Conv2d) and 1 < part.groups < part.out_channels:
                return f"{self.names[part]!r} is a convolution in {part.groups} groups"
            if (not isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.BatchNorm1d
                                   | nn.BatchNorm2d)
                    and list(part.parameters())):
                return f"{type(part).__name__} {self.names[part]!r} would see fewer values"
        return None

    def _suspects(self):
        """The nodes, by torch's names, that may keep torch-pruning from following a unit."""
        nodes = [item.dep.target for item in self.items if item.dep.target._name is None]
        return tuple(dict.fromkeys(
            f"{node.grad_fn.name()} behind {self._before(node)!r}" for node in nodes
            if not node.grad_fn.name().startswith(PLAIN)))

    def _before(self, node):
        """Name of the nearest module before ``node``."""
        while node._name is None and node.inputs:
            node = node.inputs[0]
        return node._name or "the input"


def _group(graph, layer, outputs):
    return graph.get_pruning_group(
        layer, graph.get_pruner_of_module(layer).prune_out_channels, list(outputs))


def _product(items) -> bool:
    """Whether a group passes a product of two computed matrices."""
    return any(item.dep.target.grad_fn.name().startswith(PRODUCTS) for item in items)


def _head_name(part) -> str | None:
    """The attribute that holds the number of heads, where ``part`` is an attention."""
    return next((name for name in HEADS if isinstance(getattr(part, name, None), int)), None)


def _projection(graph, attention) -> nn.Linear | None:
    """The first of the layers whose outputs meet in the one product of an attention."""
    found = {}
    for layer in layers(attention).values():
        if layer in graph.module2node:
            items = _group(graph, layer, range(len(layer.weight)))
            if _product(items):
                found.setdefault(frozenset(item.dep.target for item in items), layer)
    return next(iter(found.values())) if len(found) == 1 else None


# whole blocks


def _blocks(module, name) -> list[str]:
    """The names of the children of a container that hold layers."""
    return [f"{name}.{child}" if name else child
            for child, part in module.get_submodule(name).named_children() if layers(part)]


def _shapes(module, example, run) -> dict[str, list]:
    """By name of each part, at each call: None where it maps one tensor to one like it, or what it
    does instead."""
    seen = {name: [] for name, _ in module.named_modules()}

    def hook(name):
        def look(_module, inputs, options, output):
            if len(inputs) != 1 or options or not all(
                    isinstance(x, torch.Tensor) for x in (*inputs, output)):
                seen[name].append("does not take one tensor and return one")
            elif inputs[0].shape != output.shape:
                seen[name].append(f"maps {list(inputs[0].shape)} to {list(output.shape)}")
            else:
                seen[name].append(None)
        return look

    handles = [part.register_forward_hook(hook(name), with_kwargs=True)
               for name, part in module.named_modules()]
    try:
        with watched(module, []), torch.no_grad():
            run(module, example)
    except Exception as error:
        raise _unusable(error) from error
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _of_container(module, name, wanted, scores, shapes) -> _Cut:
    """The removal of blocks of a container."""
    blocks = _blocks(module, name)
    fixed = {}
    for block in blocks:
        reasons = [why for why in shapes[block] if why] or (
            [] if shapes[block] else ["is not called"])
        if reasons:
            fixed[block] = reasons[0]

    def score():
        values = torch.tensor([_sum(block, scores) for block in blocks])
        # what cannot go stays before all others
        return values.masked_fill(torch.tensor([block in fixed for block in blocks]), torch.inf)
    mask = _chosen(name, wanted, len(blocks), score)
    kept = dict(zip(blocks, mask, strict=True))
    stuck = [f"{block!r} {fixed[block]}" for block in blocks if block in fixed and not kept[block]]
    return _Cut((name,), mask, " and ".join(stuck) or None, kept)


def _sum(block, scores):
    """The score of a block."""
    if scores is None:
        return 0.0
    own = [score for name, score in scores.items()
           if name == block or name.startswith(f"{block}.")]
    if not own:
        raise BadInput(f"block {block!r} has no scores; give those of its layers.")
    return float(sum(score.double().sum() for score in own))


# the removal


def _trial(module, example, cut, run) -> str | None:
    """Why the removal of ``cut`` alone fails, or None."""
    if cut.reason:
        return cut.reason
    try:
        _checked(module, example, [cut], run)
    except _Failed as error:
        if cut.root is None:
            return str(error)
        through = f" through {', '.join(cut.suspects)}" if cut.suspects else ""
        return f"torch-pruning cannot follow its units{through}: {error}"
    return None


def _checked(module, example, cuts, run) -> Shrunk:
    """The removal of ``cuts``; raises _Failed where the result is not what it must be."""
    kept = {}
    for cut in cuts:
        for name, mask in cut.kept.items():
            kept[name] = kept.get(name, True) & mask
    try:
        shrunk = _shrunk(module, example, cuts, run)
        if all(cut.root is None for cut in cuts):
            with watched(shrunk, []), torch.no_grad():
                run(shrunk, example)
        else:
            equivalent(masked(module, kept), shrunk, [example], run=run)
    except BadInput as error:
        raise _Failed(str(error).rstrip(".")) from error
    except Exception as error:
        raise _Failed(f"the shrunk network does not run ({_line(error)})") from error
    return Shrunk(shrunk, kept)


def _shrunk(module, example, cuts, run) -> nn.Module:
    if all(cut.root is None for cut in cuts):
        copy = deepcopy(module)
        for cut in cuts:
            for name, stays in cut.kept.items():
                if not stays:
                    copy.set_submodule(name, nn.Identity())
        return copy
    copy, graph = _traced(module, example, run)
    for cut in cuts:
        if cut.outputs:
            _group(graph, copy.get_submodule(cut.root), cut.outputs).prune()
        if cut.attention is not None:
            _set_heads(copy.get_submodule(cut.attention), int(cut.mask.sum()))
    frozen = {name: not parameter.requires_grad for name, parameter in module.named_parameters()}
    for name, parameter in copy.named_parameters():
        parameter.requires_grad_(not frozen[name])
    for name, part in copy.named_modules():
        part.training = module.get_submodule(name).training
    return copy


def _set_heads(attention, heads):
    name = _head_name(attention)
    if hasattr(attention, "all_head_size"):     # in the models of Hugging Face
        attention.all_head_size = attention.all_head_size // getattr(attention, name) * heads
    setattr(attention, name, heads)


def _unusable(error):
    return BadInput(f"the module cannot be traced on the example ({_line(error)}); give a batch "
                    "that it takes.")


def _line(error):
    """The first line of an error, or what it is."""
    return (str(error).splitlines() or [type(error).__name__])[0]
