"""What follows a product and becomes part of its layer: constants that are added, batch
normalisation, ReLU, and the QuantizeLinear of a quantised one."""

from dataclasses import dataclass, replace

import numpy as np
import onnx

from zeroskip.sw.frontends.clean import DOMAINS
from zeroskip.sw.frontends.constants import Reject, attributes
from zeroskip.sw.frontends.products import Known, Product, as_bias, bias_of
from zeroskip.sw.frontends.values import Values
from zeroskip.sw.graph.types import TensorType


@dataclass
class Tail:
    """A product, and what follows it.

    Attributes
    ----------
    values : Values
    nodes : list of onnx.NodeProto
        That of the product, and those that are taken.
    product : Product
        With what they do.
    known : Known
    output : TensorType or None
        That of the QuantizeLinear at the end.
    """

    values: Values
    nodes: list[onnx.NodeProto]
    product: Product
    known: Known
    output: TensorType | None = None

    def __post_init__(self):
        self._views = False
        while self.output is None and (after := self._next()) is not None:
            self.nodes.append(after)
        if self.output is not None:
            self._relu_behind()

    def _next(self) -> onnx.NodeProto | None:
        """The node behind, if it is taken."""
        after = self.values.only_reader(self.nodes[-1].output[0])
        if after is None or after.domain not in DOMAINS:
            return None
        take = {"Add": self._add, "BatchNormalization": self._norm, "Relu": self._relu,
                "QuantizeLinear": self._quantise}.get(after.op_type, self._view)
        try:
            return after if take(after) else None
        except Reject:
            return None

    def _relu_behind(self) -> None:
        """A ReLU between roundings of one kind changes nothing but what is below its zero."""
        found, name = [], self.nodes[-1].output[0]
        for operator in ("DequantizeLinear", "Relu", "QuantizeLinear"):
            node = self.values.only_reader(name)
            if node is None or node.op_type != operator or (
                    operator != "Relu" and self.values.grid(node) != self.output):
                return
            found.append(node)
            name = node.output[0]
        self._relu(found[1])
        self.nodes += found

    def _view(self, node: onnx.NodeProto) -> bool:
        """Views stay, but for those in front of a QuantizeLinear that is taken."""
        self._views = self.known.grid is not None and self.values.is_view(node)
        return self._views

    def _add(self, node: onnx.NodeProto) -> bool:
        index = next((i for i in (0, 1) if node.input[i] in self.known.constants), None)
        layer = self.product.layer
        if index is None or layer.activation != "none" or self._views:
            return False
        bias = bias_of(node, index, self.known, self.product.integers)
        shape = self.values.types[node.output[0]].shape
        if shape != self.values.types[self.nodes[-1].output[0]].shape:
            return False
        bias = self.product.bias + as_bias(bias, shape, self._channel)
        self.product = replace(self.product, bias=bias, layer=replace(
            layer, bias=bias.astype(np.float32)))
        return True

    @property
    def _channel(self) -> int:
        """The axis of a value's channels."""
        return -1 if self.nodes[0].op_type in ("Gemm", "MatMul") else 1

    def _norm(self, node: onnx.NodeProto) -> bool:
        given, layer = attributes(node), self.product.layer
        if given.get("training_mode", 0) or layer.activation != "none" or self._views \
                or self.known.grid is not None \
                or (self._channel == -1 and len(self.values.types[node.input[0]].shape) != 2):
            return False
        scale, offset, mean, variance = (
            self.known.constants.real(node, i).astype(np.float64) for i in (1, 2, 3, 4))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # refused at the end
            factor = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
            wide = factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
            bias = (self.product.bias - mean) * factor + offset
            self.product = replace(self.product, bias=bias, integers=None, layer=replace(
                layer, weight=(layer.weight * wide).astype(np.float32),
                bias=bias.astype(np.float32)))
        return True

    def _relu(self, node: onnx.NodeProto) -> bool:      # noqa: ARG002 - as the others
        self.product = replace(self.product, layer=replace(self.product.layer, activation="relu"))
        return True

    def _quantise(self, node: onnx.NodeProto) -> bool:
        if self.known.grid is None:
            return False
        self.output = self.values.grid(node)
        return True
