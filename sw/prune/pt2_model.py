"""Exported programs, ``.pt2`` files, that are pruned: trained as they were exported.

A program trains by autograd on its parameters, at its exported batch where that is fixed. Dropout
and batch norms stay as they were exported, which is as in evaluation.
"""

import io
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import pt2_frontend
from zeroskip.sw.frontends.torch_frontend import quietly
from zeroskip.sw.prune.model import Input, Model, checked

ATEN = torch.ops.aten
KINDS = {ATEN.linear.default: nn.Linear, ATEN.conv1d.default: nn.Conv1d,
         ATEN.conv2d.default: nn.Conv2d, ATEN.conv1d.padding: nn.Conv1d,
         ATEN.conv2d.padding: nn.Conv2d}
"""By operator: the layer that it is."""


@dataclass(frozen=True, eq=False)
class ProgramModel(Model):
    """A model from a ``.pt2`` file, and its program."""

    program: ExportedProgram | None = None

    def copy(self) -> "ProgramModel":
        """One that may be changed."""
        with quietly():     # torch copies what it has deprecated
            return super().copy()

    def loosen(self, example: tuple[torch.Tensor, ...]):    # noqa: ARG002 - as of the others
        """Raises BadInput."""
        raise BadInput(f"{self.source}: the sizes of an exported program are fixed; take units out "
                       "of the module, and export that.")

    @torch.no_grad()
    def files(self, path: Path, notes: dict[str, str]) -> dict[Path, bytes]:
        """The program with these weights, by its path; ``notes`` are extra files."""
        program = self.program
        for name, values in self.module.state_dict().items():
            if name in program.state_dict:
                program.state_dict[name].copy_(values)
        file = io.BytesIO()     # of a path torch would put the name into the file
        torch.export.save(program, file, extra_files=notes)
        return {path: file.getvalue()}


def read(path: Path) -> ProgramModel:
    """The model in a file; BadInput where it is none, or has no layers."""
    program = pt2_frontend.program(path)
    with quietly():
        exported = program.module()
        graph = fx.GraphModule(exported, exported.graph)    # which has train() and eval()
        names, tied = _as_layers(graph)
        graph = deepcopy(graph)     # the program's own parameters are what is written
    inputs, batch = _inputs(program)
    return checked(ProgramModel(str(path), graph, names, tied, {}, inputs, batch, "", program))


def _as_layers(module: fx.GraphModule) -> tuple[dict[str, str], dict[str, str]]:
    """Makes layers of the products of parameters; their parts' names, and those that are tied."""
    names: dict[str, str] = {}
    tied: dict[str, str] = {}
    owners: dict[str, str] = {}
    for node in list(module.graph.nodes):
        if node.target == "_guards_fn" or (node.op == "call_module" and not node.users):
            module.graph.erase_node(node)   # what torch checks of the inputs
            continue
        kind = KINDS.get(node.target) if node.op == "call_function" else None
        if kind is None:
            continue
        given = [node.args[at] if len(node.args) > at else None for at in range(3)]
        if given[1].op != "get_attr" or any(each is not None and each.op != "get_attr"
                                            for each in given[2:]):
            continue
        target = str(given[1].target)
        weight = module.get_parameter(target) if target in dict(module.named_parameters()) else None
        if weight is None or weight.dtype != torch.float32:
            continue
        name = target.removesuffix(".weight")
        if target in owners:
            tied[str(node.name)] = owners[target]
            continue
        bias = None if given[2] is None else module.get_parameter(str(given[2].target))
        part = _add(module, name, _layer(kind, weight, bias, node))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.call_module(part, (node.args[0],)))
        module.graph.erase_node(node)
        names[name], owners[target] = part, name
    module.recompile()
    return names, tied


def _layer(kind, weight, bias, node) -> nn.Module:
    """A layer that has these very parameters."""
    defaults = {} if kind is nn.Linear else {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    given = dict(zip(defaults, node.args[3:], strict=False))
    options = {name: node.kwargs.get(name, given.get(name, default))
               for name, default in defaults.items()}
    if kind is nn.Linear:
        layer = nn.utils.skip_init(nn.Linear, weight.shape[1], len(weight), bias is not None)
    else:
        axes = weight.ndim - 2
        options = {key: tuple(each) * (axes if len(each) == 1 else 1)
                   if isinstance(each, list | tuple) else each for key, each in options.items()}
        layer = nn.utils.skip_init(kind, weight.shape[1] * options["groups"], len(weight),
                                   tuple(weight.shape[2:]), bias=bias is not None, **options)
    layer.weight, layer.bias = weight, bias
    return layer


def _add(module: nn.Module, name: str, layer: nn.Module) -> str:
    """Puts a layer where its parameters are, or beside them where there is more."""
    try:
        place = module.get_submodule(name)
        taken = set(dict(place.named_parameters())) | set(dict(place.named_buffers()))
        if taken <= set(dict(layer.named_parameters())) and not list(place.children()):
            module.set_submodule(name, layer)
            return name
    except AttributeError:
        pass
    part = f"layer_{len(list(module.children()))}"
    while hasattr(module, part):
        part += "_"
    module.add_module(part, layer)
    return part


def _inputs(program: ExportedProgram) -> tuple[tuple[Input, ...], int | None]:
    """The inputs, and how many samples a run takes, where that is fixed."""
    users, found, batches = set(program.graph_signature.user_inputs), [], set()
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in users:
            value = node.meta["val"]
            sizes = [each if isinstance(each, int) else None for each in value.shape]
            dtype = np.dtype(str(value.dtype).removeprefix("torch."))
            found.append(Input(node.name, tuple(sizes[1:]), dtype))
            batches.add(sizes[0] if sizes else None)
    return tuple(found), batches.pop() if len(batches) == 1 else None
