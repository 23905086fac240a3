"""What is known of the values of a clean ONNX model: their types, who makes and reads them, which
are others under another shape, and what integers stand for."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from zeroskip.sw.frontends.clean import DOMAINS, Clean
from zeroskip.sw.frontends.constants import Constants, Reject, attributes
from zeroskip.sw.graph import session
from zeroskip.sw.graph.graph import ValueType
from zeroskip.sw.graph.types import TensorType

VIEWS = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output is their input, in the same order."""


class Values:
    """The values of a model.

    Attributes
    ----------
    computed : list of onnx.NodeProto
        The operators that do not work on constants alone, in order.
    constants : Constants
    types : dict of str to ValueType
    inputs, outputs : tuple of str
    readers : dict of str to list of onnx.NodeProto
    producers : dict of str to onnx.NodeProto
    quantised : dict of str to TensorType
        Of integers, under the name of what they are a view of; filled while nodes are taken.
    products : set of str
        Outputs of float layers; filled in the same way.
    """

    def __init__(self, clean: Clean, source: str):
        graph = clean.model.graph
        tensors = {each.name for each in graph.initializer} | set(clean.weights)
        nodes: dict[str, onnx.NodeProto] = {}
        self.computed = []
        for node in graph.node:
            if node.op_type != "Constant" and any(
                    name and name not in tensors and name not in nodes for name in node.input):
                self.computed.append(node)
            else:
                nodes.update(dict.fromkeys(filter(None, node.output), node))
        self.constants = Constants(clean, nodes, source)
        self.types = {value.name: _type(value) for value in
                      [*graph.value_info, *graph.input, *graph.output]
                      if session.size_of(value) is not None}
        self.inputs = tuple(value.name for value in graph.input)
        self.outputs = tuple(value.name for value in graph.output)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self.producers: dict[str, onnx.NodeProto] = {}
        self.quantised: dict[str, TensorType] = {}
        self.products: set[str] = set()
        for node in self.computed:
            for name in filter(None, node.input):
                self.readers.setdefault(name, []).append(node)
            for name in filter(None, node.output):
                self.producers[name] = node

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a value which is no output."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def is_view(self, node: onnx.NodeProto) -> bool:
        """Whether a node's output is its input under another shape."""
        if node.domain not in DOMAINS:
            return False
        if node.op_type not in VIEWS and not self._keeps_order(node):
            return False
        others = [name for name in node.output[1:] if name in self.readers or name in self.outputs]
        before = self.types.get(node.input[0])
        return not others and before is not None \
            and before.size == self.types[node.output[0]].size

    def _keeps_order(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a Transpose that only moves axes of one place."""
        before = self.types.get(node.input[0]) if node.op_type == "Transpose" else None
        if before is None:
            return False
        order = attributes(node).get("perm", range(len(before.shape))[::-1])
        moved = [axis for axis in order if before.shape[axis] > 1]
        return moved == sorted(moved)

    def source(self, name: str) -> str:
        """What a value is a view of."""
        while name in self.producers and self.is_view(self.producers[name]):
            name = self.producers[name].input[0]
        return name

    def is_other_unit(self, node: onnx.NodeProto) -> bool:
        """Whether a node makes real values of integers that stand for them, or the other way
        about, and no value is rounded by it but an input's or a float layer's."""
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return False
        back = node.op_type == "DequantizeLinear"
        integers = node.input[0] if back else node.output[0]
        try:
            own = self.grid(node)
        except Reject:
            return False
        if self.stands_for(integers, own) != own:
            return False
        before = self.source(node.input[0])
        return back or before in self.inputs or before in self.products \
            or self._is_dequantised(before, own)

    def stands_for(self, name: str, own: TensorType) -> TensorType:
        """What integers stand for: as is known already, else ``own`` from now on."""
        kind = replace(own, shape=(self.types[name].size,))
        return replace(self.quantised.setdefault(self.source(name), kind), shape=own.shape)

    def known_grid(self, name: str) -> TensorType | None:
        """How integers are quantised, where that is known."""
        found = self.quantised.get(self.source(name))
        return found and replace(found, shape=())

    def grid(self, node: onnx.NodeProto) -> TensorType:
        """That of a QuantizeLinear or DequantizeLinear."""
        integers = node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]
        return self.constants.grid(node, 1, 2, self.types[integers].dtype)

    def integers_before(self, name: str) -> tuple[str, TensorType | None]:
        """The integers that a value stands for, behind views and roundings that change nothing,
        and how they are quantised; the value itself where it stands for none."""
        current, grid, found = name, None, name
        while current in self.producers:
            node = self.producers[current]
            if node.op_type == "DequantizeLinear":
                own = self.grid(node)
                if grid not in (None, own):
                    break
                found, grid = node.input[0], own
            elif not self.is_view(node) and not (
                    grid is not None and node.op_type == "QuantizeLinear"
                    and self._is_dequantised(node.input[0], grid)):
                break
            current = node.input[0]
        return found, grid

    def _is_dequantised(self, name: str, grid: TensorType) -> bool:
        """Whether a float value stands for integers of this kind."""
        node = self.producers.get(self.source(name))
        return node is not None and node.op_type == "DequantizeLinear" and self.grid(node) == grid


def _type(value: onnx.ValueInfoProto) -> ValueType:
    kind = value.type.tensor_type
    return ValueType(tuple(each.dim_value for each in kind.shape.dim),
                     np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
