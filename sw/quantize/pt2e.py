"""What torchao must know to quantise a module as the tensor core computes it.

After training, ``exported`` being what ``torch.export.export(module, inputs).module()`` gives::

    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    prepared = prepare_pt2e(exported, TensorCoreQuantizer())
    prepared(samples)                           # as many as wanted
    program = zeroskip.compile(convert_pt2e(prepared), samples[:1])

and with ``prepare_qat_pt2e`` and ``TensorCoreQuantizer(training=True)``, with training in place of
the samples. What is compiled has the integers that were trained: nothing is calibrated.
"""

from collections.abc import Sequence

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

ATEN = torch.ops.aten
PRODUCTS = (ATEN.linear.default, ATEN.conv1d.default, ATEN.conv2d.default,
            ATEN.conv1d.padding, ATEN.conv2d.padding)
NORMS = (ATEN.batch_norm.default,)
RELUS = (ATEN.relu.default, ATEN.relu_.default)
MOVING = (ATEN.max_pool1d.default, ATEN.max_pool2d.default, ATEN.view.default,
          ATEN.reshape.default, ATEN.flatten.using_ints, ATEN.permute.default,
          ATEN.transpose.int, ATEN.squeeze.dim, ATEN.squeeze.dims, ATEN.unsqueeze.default)
"""What hands values on as they are."""


class TensorCoreQuantizer(Quantizer):
    """The quantisation that the tensor core computes, for ``prepare_pt2e`` and, with ``training``,
    ``prepare_qat_pt2e`` of torchao.

    ======================== ===================================================================
    weights                  int8 from -127 to 127, a scale for each output channel, no zero point
    activations              int8 from -128 to 127, a scale and a zero point for each tensor
    biases                   int32, their scale that of the input times that of the weights
    linear, conv1d, conv2d   with the batch norm (``training``) and the ReLU behind them as one
    pooling by the greatest, as they are: what they give has the scale of what they take
    views, transpositions
    all else                 float, on the host
    ======================== ===================================================================

    Parameters
    ----------
    training : bool
        Whether values are rounded while the module trains.
    """

    def __init__(self, training: bool = False):
        super().__init__()
        self._activation = QuantizationSpec(
            torch.int8, _activation_observer(training), -128, 127, torch.per_tensor_affine)
        self._weight = QuantizationSpec(
            torch.int8, _weight_observer(training), -127, 127, torch.per_channel_symmetric, 0)

    def annotate(self, model: GraphModule) -> GraphModule:
        """Says of each node how what it takes and gives is quantised."""
        for node in model.graph.nodes:
            if node.target in PRODUCTS and _annotation(node) is None:
                self._product(node)
        for node in model.graph.nodes:
            if node.target in MOVING and _quantised(node.args[0]):
                shared = SharedQuantizationSpec((node.args[0], node))
                _annotate(node, {node.args[0]: SharedQuantizationSpec(node.args[0])}, shared)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing can be wrong."""

    def _product(self, node: Node) -> None:
        """A product, and what is computed with it."""
        x, weight, *rest = node.args
        inputs = {x: self._activation, weight: self._weight}
        if rest and rest[0] is not None:
            inputs[rest[0]] = DerivedQuantizationSpec(
                [(x, node), (weight, node)], _bias_units, torch.int32, -2**31, 2**31 - 1,
                torch.per_channel_symmetric, 0)
        last = node
        for kinds in (NORMS, RELUS):
            after = list(last.users)
            if len(after) == 1 and after[0].target in kinds:
                if last is not node:
                    _annotate(last, {}, None)
                last = after[0]
        _annotate(node, inputs, self._activation if last is node else None)
        if last is not node:
            _annotate(last, {}, self._activation)


def _annotation(node: Node) -> QuantizationAnnotation | None:
    return node.meta.get("quantization_annotation")


def _annotate(node: Node, inputs: dict, output) -> None:
    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True)


def _quantised(node: Node) -> bool:
    """Whether what a node gives is quantised."""
    own = _annotation(node)
    return own is not None and own.output_qspec is not None


def _activation_observer(training: bool):
    if training:
        return FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
    return MinMaxObserver


def _weight_observer(training: bool):
    if training:
        return FakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver,
                                      averaging_constant=1.0)
    return PerChannelMinMaxObserver


def _bias_units(observers: Sequence) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points of a bias, from the observers of input and weight."""
    (x, _), (weight, _) = (each.calculate_qparams() for each in observers)
    units = x * weight
    return units, torch.zeros_like(units, dtype=torch.int32)
