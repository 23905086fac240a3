"""PyTorch modules as networks, and networks as PyTorch modules."""

import io
from dataclasses import replace

import torch
from torch import nn

from zeroskip.sw.compiler import pt2_frontend
from zeroskip.sw.compiler.chain import Chain, Reject, float32, unknown
from zeroskip.sw.errors import BadInput
from zeroskip.sw.network import Network


def from_torch(module: nn.Module | torch.export.ExportedProgram) -> Network:
    """Network of an ``nn.Sequential`` of Linear, ReLU, Flatten, Dropout and Identity.

    Any other module must come as what ``torch.export.export`` makes of it. Raises BadInput with
    a table of all the modules that cannot run.
    """
    if isinstance(module, torch.export.ExportedProgram):
        file = io.BytesIO()
        torch.export.save(module, file)
        return pt2_frontend.survey(file.getvalue(), "the exported program").network()
    if type(module) not in (nn.Sequential, nn.Linear):
        raise BadInput(f"{type(module).__name__} is no nn.Sequential; give "
                       "torch.export.export(module.eval(), (example_input,)).")
    chain = Chain("the module", "input", None)
    for name, leaf in _leaves(module):
        chain.node(name, type(leaf).__name__, [chain.current], name,
                   lambda name=name, leaf=leaf: _translate(chain, name, leaf))
    return chain.network()


def to_torch(network: Network) -> nn.Sequential:
    """``nn.Sequential`` of Linear and ReLU with a copy of the network's weights, float32."""
    modules = []
    for layer in network.layers:
        outputs, inputs = layer.weight.shape
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(layer.weight.copy()))
            linear.bias.copy_(torch.from_numpy(layer.bias.copy()))
        modules += [linear, nn.ReLU()] if layer.activation == "relu" else [linear]
    return nn.Sequential(*modules)


def with_weights(network: Network, module: nn.Module) -> Network:
    """``network`` with the weights and biases of the Linear layers of ``module``, in order."""
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return Network(tuple(
        replace(layer, weight=_array(linear.weight).copy(), bias=_array(linear.bias).copy())
        for layer, linear in zip(network.layers, linears, strict=True)))


def _leaves(module, prefix=""):
    """Names and modules in the order of the data; a module that occurs twice comes twice."""
    if type(module) is not nn.Sequential:
        yield prefix or "linear", module
        return
    for name, child in module.named_modules(remove_duplicate=False):
        if name and "." not in name:
            yield from _leaves(child, f"{prefix}.{name}" if prefix else name)


def _translate(chain, name, module):
    kind = type(module)     # exactly: a subclass may compute something else
    if kind is nn.Linear:
        weight = _parameter(module.weight, f"{name}.weight")
        bias = None if module.bias is None else _parameter(module.bias, f"{name}.bias")
        chain.linear(name, weight, bias)
    elif kind is nn.ReLU:
        chain.relu()
    elif kind is nn.Flatten:
        chain.flatten(module.start_dim, module.end_dim)
    elif kind is nn.Dropout:
        if module.training:
            raise Reject("it drops in training mode: call eval() on the module first")
    elif kind is not nn.Identity:
        raise unknown(kind.__name__)


def _parameter(tensor, name):
    if tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        raise Reject(f"{name!r} is {tensor.dtype}: call float() on the module first")
    return float32(_array(tensor), name)


def _array(tensor):
    return tensor.detach().cpu().numpy()
