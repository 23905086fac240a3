"""PyTorch modules as ONNX, by torch's own exporter."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import nn
from torch.export import ExportedProgram

from zeroskip.sw.errors import BadInput

TRAINING = {"batch_norm": "training", "dropout": "train", "feature_dropout": "train",
            "alpha_dropout": "train", "feature_alpha_dropout": "train"}
"""By operator of ATen: its argument that says that the module was exported in training mode."""


def to_onnx(module: nn.Module | ExportedProgram, inputs: Sequence[torch.Tensor],
            fixed: bool = False) -> bytes:
    """An ONNX file of what ``module`` computes of ``inputs``, as inference does: a module in
    training mode is in evaluation mode meanwhile.

    The first dimension of all inputs is the batch; it stays open where the module takes any,
    unless it is to be ``fixed``.
    ``inputs`` do not matter for an ExportedProgram, which has its own. Raises BadInput where torch
    cannot export the module, and where a program was exported in training mode.
    """
    with quietly():
        if not isinstance(module, ExportedProgram):
            module = _exported(module, inputs, fixed)
        return _translated(module)


@contextmanager
def quietly() -> Iterator[None]:
    """No warnings and no log while torch exports; and attention as the operators that it is made
    of, not as one."""
    level, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.CRITICAL)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(level)


def _exported(module: nn.Module, inputs: Sequence[torch.Tensor], fixed: bool) -> ExportedProgram:
    inputs = tuple(inputs) if isinstance(inputs, Sequence) else None
    if not inputs or not all(isinstance(each, torch.Tensor) for each in inputs):
        raise BadInput("the inputs of a module must be a tuple of tensors, such as "
                       "(torch.zeros(1, 3, 32, 32),).")
    with evaluating(module), torch.no_grad():
        if not fixed and len({each.shape[:1] for each in inputs}) == 1 and inputs[0].ndim \
                and len(inputs[0]):
            # copies, because torch marks what it gets; a size of 1 is for it one that stays 1
            wide = tuple(torch.cat([each] * (2 if len(each) == 1 else 1)) for each in inputs)
            try:
                return torch.export.export(module, wide, dynamic_shapes=tuple(
                    {0: torch.export.Dim.DYNAMIC} for _ in inputs))
            except Exception:   # the module wants this batch, or is none that torch exports
                pass
        try:
            return torch.export.export(module, inputs)
        except Exception as error:
            raise BadInput(
                f"torch cannot export {type(module).__name__} ({reason(error)}); change it so "
                "that torch.export.export(module, inputs) accepts it.") from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode, and each part of it as before afterwards."""
    training = [each for each in module.modules() if each.training]
    with suppress(NotImplementedError):     # what torchao quantised has no modes
        module.eval()
    try:
        yield
    finally:
        for each in training:
            each.training = True


def _translated(program: ExportedProgram) -> bytes:
    _refuse_training(program)
    try:
        exported = torch.onnx.export(program, (), dynamo=True, verbose=False)
        return exported.model_proto.SerializeToString()
    except Exception as error:
        raise BadInput(f"torch cannot write the module as ONNX ({reason(error)}); take what it "
                       "names out of the module, or write it in other operators.") from error


def _refuse_training(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        operator = str(node.target).removeprefix("aten.").split(".")[0]
        if operator not in TRAINING:
            continue
        names = [each.name for each in node.target._schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        if given.get(TRAINING[operator]) is True:
            raise BadInput(f"the program was exported in training mode ({operator} in "
                           f"{node.name}); call eval() on the module before "
                           "torch.export.export.")


def reason(error: BaseException) -> str:
    """The first sentence of what torch says, of the error that is the cause of the others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.split(r"[.!]\s|\n", str(error).strip())[0].rstrip(".") or type(error).__name__
