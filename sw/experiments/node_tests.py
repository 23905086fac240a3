"""ONNX's own tests of its operators, one node a model, through the front end and the float graph.

The tests come with the onnx package (:mod:`onnx.backend.test`), with inputs, outputs and
tolerances. Those of the integer products run on the tensor core too, in
``tests/sw/engines/tensorcore/test_onnx_backend.py``.
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write
from zeroskip.sw.frontends.load import read
from zeroskip.sw.graph.graph import Graph


@dataclass(frozen=True)
class NodeTest:
    """What became of a test.

    Attributes
    ----------
    name : str
    passed : bool
    reason : str
        Why not: the front end's sentence, onnxruntime's, or that values differ; without names and
        numbers, so that equal ones can be counted.
    """

    name: str
    passed: bool
    reason: str = ""


def cases() -> list:
    """All tests of single nodes."""
    from onnx.backend.test.loader import load_model_tests
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # their generators overflow
        return [case for case in load_model_tests(kind="node") if case.model]


def run(case, folder: Path) -> NodeTest:
    """One test."""
    path = folder / "node.onnx"
    write(path, case.model.SerializeToString())
    try:
        graph = read(path)
        good = all(_equal(case, graph, *each) for each in case.data_sets)
    except BadInput as error:
        return NodeTest(case.name, False, _general(str(error)))
    return NodeTest(case.name, good, "" if good else "its values differ")


def _equal(case, graph: Graph, inputs: list, outputs: list) -> bool:
    given = {value.name: _array(x) for value, x in zip(case.model.graph.input, inputs, strict=True)}
    # samples of a fixed batch may go through one by one
    given = {name: x.reshape(-1, graph.types[name].size) for name, x in given.items()
             if name in graph.inputs}
    if not given:
        raise BadInput("it has no input that counts; give a model with one")
    found = graph.evaluate(given, graph.outputs)
    pairs = [(found[name], graph.types[name].shape, _array(wanted))
             for name, wanted in zip(graph.outputs, outputs, strict=True)]
    return all(_close(*each, case) for each in pairs)


def _close(found: np.ndarray, shape: tuple[int, ...], wanted: np.ndarray, case) -> bool:
    whole = (len(found), *shape[1:]) if len(found) > 1 else shape
    if whole != wanted.shape or found.dtype != wanted.dtype:
        return False
    found = found.reshape(wanted.shape)
    if found.dtype.kind not in "fc":
        return np.array_equal(found, wanted)
    return np.allclose(found, wanted, case.rtol, case.atol, equal_nan=True)


def _array(value) -> np.ndarray:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value)


def _general(sentence: str) -> str:
    """A sentence without what is particular to one model."""
    sentence = re.sub(r"^\S*node\.onnx:? ", "", sentence)
    sentence = re.sub(r"\(\[ONNXRuntimeError\].*", "(onnxruntime's own message)", sentence)
    sentence = re.sub(r"'[^']*'", "...", sentence)
    return re.sub(r"\[[^]]*\]|\d+", "#", sentence)
