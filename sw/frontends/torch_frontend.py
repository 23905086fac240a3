"""PyTorch modules as networks, and networks as PyTorch modules."""

import io
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write
from zeroskip.sw.frontends import pt2_frontend
from zeroskip.sw.frontends.chain import Chain, Reject, float32, unknown
from zeroskip.sw.frontends.pt2_frontend import NORM, PADDINGS
from zeroskip.sw.graph.network import Conv2d, Network


def from_torch(module: nn.Module | torch.export.ExportedProgram) -> Network:
    """Network of an ``nn.Sequential`` of Linear, Conv2d, BatchNorm, ReLU, Flatten, Unflatten,
    Dropout and Identity.

    A Conv2d needs an ``nn.Unflatten`` before it, which says how large its image is. Any other
    module must come as what ``torch.export.export`` makes of it. Raises BadInput with a table of
    all the modules that cannot run.
    """
    if isinstance(module, torch.export.ExportedProgram):
        file = io.BytesIO()
        torch.export.save(module, file)
        return pt2_frontend.survey(file.getvalue(), "the exported program").network()
    if type(module) not in (nn.Sequential, nn.Linear):
        raise BadInput(f"{type(module).__name__} is no nn.Sequential; give "
                       "torch.export.export(module.eval(), (example_input,)).")
    chain = Chain("the module", "input", {})
    for name, leaf in _leaves(module):
        chain.node(name, type(leaf).__name__, [chain.current], name,
                   lambda name=name, leaf=leaf: _translate(chain, name, leaf))
    return chain.network()


def to_torch(network: Network) -> nn.Sequential:
    """``nn.Sequential`` with a copy of the network's weights, float32.

    It takes and returns flat samples: ``nn.Unflatten`` and ``nn.Flatten`` stand around
    convolutions. Raises BadInput where a layer is quantised.
    """
    modules, image = [], None       # image: channels, height and width, None while flat
    for layer in network.layers:
        if layer.quantised:
            raise BadInput(f"layer {layer.name} is quantised and cannot be trained; prune the "
                           "float network before quantising it.")
        wanted = getattr(layer, "input_shape", None)
        if image not in (None, wanted):
            modules.append(nn.Flatten())
        if wanted not in (None, image):
            modules.append(nn.Unflatten(1, wanted))
        modules += _modules(layer)
        image = getattr(layer, "output_shape", None)
    return nn.Sequential(*modules, *[nn.Flatten()] * (image is not None))


def to_pt2(network: Network, path: str | Path, notes: dict[str, str] | None = None):
    """Writes what :func:`to_torch` makes of ``network``; the batch may have any size, and layers
    have torch's names. Raises BadInput for padding that differs by side, which cannot be read
    back."""
    for layer in network.layers:
        top, left, bottom, right = getattr(layer, "padding", (0, 0, 0, 0))
        if (top, left) != (bottom, right):
            raise BadInput(f"layer {layer.name} pads its sides differently, which a .pt2 file does "
                           "not say; write .onnx.")
    program = torch.export.export(
        to_torch(network).eval(), (torch.zeros(2, network.inputs),),
        dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()     # of a path torch would put the name into the file
    torch.export.save(program, file, extra_files=notes or {})
    write(path, file.getvalue())


def with_weights(network: Network, module: nn.Module) -> Network:
    """``network`` with the weights and biases of the layers of ``module``, in order; these may
    have fewer outputs and inputs."""
    products = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return replace(network, layers=tuple(
        _with(layer, _array(product.weight).copy(), _array(product.bias).copy())
        for layer, product in zip(network.layers, products, strict=True)))


def _with(layer, weight, bias):
    if not isinstance(layer, Conv2d):
        return replace(layer, weight=weight, bias=bias)
    return replace(layer, weight=weight, bias=bias,
                   input_shape=(weight.shape[1], *layer.input_shape[1:]))


def _modules(layer):
    """A Linear or a Conv2d of torch, and its ReLU; padding that differs by side stands before."""
    before = []
    if isinstance(layer, Conv2d):
        top, left, bottom, right = layer.padding
        even = (top, left) == (bottom, right)
        before = [] if even else [nn.ZeroPad2d((left, right, top, bottom))]
        product = nn.utils.skip_init(
            nn.Conv2d, layer.input_shape[0], len(layer.weight), layer.kernel, layer.stride,
            (top, left) if even else 0, layer.dilation)
    else:
        product = nn.utils.skip_init(nn.Linear, layer.inputs, layer.outputs)
    with torch.no_grad():
        product.weight.copy_(torch.from_numpy(layer.weight.copy()))
        product.bias.copy_(torch.from_numpy(layer.bias.copy()))
    return [*before, product, *[nn.ReLU()] * (layer.activation == "relu")]


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
    elif kind is nn.Conv2d:
        _conv(chain, name, module)
    elif kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        _batch_norm(chain, name, module)
    elif kind is nn.Unflatten:
        if module.dim != 1 or len(chain.shape or (0, 0)) != 2:
            raise Reject("it must unflatten everything behind the batch dimension")
        chain.reshape([0, *module.unflattened_size])
    elif kind is nn.ReLU:
        chain.relu()
    elif kind is nn.Flatten:
        chain.flatten(module.start_dim, module.end_dim)
    elif kind is nn.Dropout:
        if module.training:
            raise Reject("it drops in training mode: call eval() on the module first")
    elif kind is not nn.Identity:
        raise unknown(kind.__name__)


def _conv(chain, name, module):
    if module.padding_mode != "zeros":
        raise Reject(f"its padding_mode is {module.padding_mode!r}: only zeros can run")
    if chain.shape is None:
        raise Reject("the height and width of its input are not known: put nn.Unflatten(1, "
                     "(channels, height, width)) first, or give torch.export.export(...)")
    weight = _parameter(module.weight, f"{name}.weight")
    bias = None if module.bias is None else _parameter(module.bias, f"{name}.bias")
    padding = module.padding
    padding = PADDINGS[padding] if isinstance(padding, str) else padding * 2
    chain.conv(name, weight, bias, stride=module.stride, padding=padding,
               dilation=module.dilation, groups=module.groups)


def _batch_norm(chain, name, module):
    if module.training:
        raise Reject("it normalises by the batch: call eval() on the module first")
    if any(getattr(module, parameter) is None for parameter in NORM):
        raise Reject("it has no parameters or no running statistics: use it as it is by default")
    chain.batch_norm(*(_parameter(getattr(module, parameter), f"{name}.{parameter}")
                       for parameter in NORM), module.eps)


def _parameter(tensor, name):
    if tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        raise Reject(f"{name!r} is {tensor.dtype}: call float() on the module first")
    return float32(_array(tensor), name)


def _array(tensor):
    return tensor.detach().cpu().numpy()
