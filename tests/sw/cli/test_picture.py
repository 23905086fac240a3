"""A program's picture: each step is a box with words that fit, none on another, lines lead down."""

import io
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import PathPatch, Rectangle
from onnx import TensorProto, helper

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.cli.picture import COLOURS, END, HOST, draw
from zeroskip.sw.cli.report import svg
from zeroskip.sw.compiler.program import Builder, Port
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.graph.session import Session
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime.facts import steps

SIZE = 7
FLOAT = TensorType((SIZE,), np.dtype(np.float32), 1.0)


def operators(kind, reads):
    """A session of one operator on some operands of the same shape."""
    names = [f"x{at}" for at in range(reads)]
    model = helper.make_model(helper.make_graph(
        [helper.make_node(kind, names, ["y"])], "host",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (SIZE,)) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (SIZE,))]),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return Session(model.SerializeToString())


def program(blocks, name="layer"):
    """So many residual blocks of a layer, its conversions and three operators."""
    layers = random_layers(np.random.default_rng(5), (SIZE, SIZE), 0.6)
    image = compile_layers(layers, EIEConfig(pes=2))
    made, last = Builder({"input": FLOAT}), "input"
    for block in range(blocks):
        inner = made.engine(image, last, [f"{name}{block}"])
        real = made.convert(inner, FLOAT, f"real{block}")
        for kind in ("Tanh", "Sigmoid"):
            made.operators(operators(kind, 1), (real,), {f"{kind}{block}": FLOAT})
        made.operators(operators("Sum", 3), (last, f"Tanh{block}", f"Sigmoid{block}"),
                       {f"sum{block}": FLOAT})
        last = f"sum{block}"
    return made.program((Port("input", "float32", "input"),),
                        (Port("output", "float32", last),), layers * blocks)


@pytest.mark.parametrize("blocks", [1, 14])
def test_every_step_is_a_box(blocks):
    own = program(blocks)
    figure = draw(own, steps(own))
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == len(own.steps) + 2 == 6 * blocks + 2
    extents = [box.get_window_extent() for box in boxes]
    assert not [pair for pair in combinations(extents, 2) if pair[0].overlaps(pair[1])]
    assert all(figure.bbox.contains(*corner) for extent in extents for corner in extent.corners())
    assert len(axes.texts) == len(boxes)
    for text, extent in zip(axes.texts, extents, strict=True):
        own = text.get_window_extent()
        assert extent.x0 < own.x0 < own.x1 < extent.x1
        assert extent.y0 < own.y0 < own.y1 < extent.y1
    assert figure.get_figwidth() < 14
    assert text.get_fontsize() >= 7


@pytest.mark.parametrize("blocks", [1, 14])
def test_lines_lead_down_and_around_boxes(blocks):
    own = program(blocks)
    figure = draw(own, steps(own))
    (axes,) = figure.axes
    boxes = [patch.get_bbox() for patch in axes.patches if isinstance(patch, Rectangle)]
    lines = [patch.get_path().vertices for patch in axes.patches if isinstance(patch, PathPatch)]
    # a line for each that a step reads, and one more for each level that the residual passes
    assert len(lines) == blocks * (1 + 1 + 1 + 2 + 3 + 4) + 1
    for start, _, _, end in lines:
        assert start[1] < end[1]
    for line in axes.lines:
        x, (y0, y1) = line.get_xdata()[0], line.get_ydata()
        assert not [box for box in boxes if box.x0 < x < box.x1 and box.y0 < (y0 + y1) / 2 < box.y1]
    assert len(axes.lines) == 4 * blocks


def test_engines_have_colours():
    own = program(1)
    figure = draw(own, steps(own))
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["eie", "host"]
    colours = [patch.get_facecolor() for patch in axes.get_legend().get_patches()]
    plain = [patch.get_facecolor() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [plain.count(colour) for colour in colours] == [1, 5]
    assert len({*COLOURS, HOST, END}) == len(COLOURS) + 2


@pytest.mark.parametrize("name", ["$x_{$", "<b>&amp;", "a\x00\x1b[31m\n", "\ud800", "w" * 500,
                                  "層" * 60])
def test_any_name_is_a_text_of_a_picture(name):
    own = program(1, name)
    picture = svg(draw(own, steps(own)))
    texts = ["".join(each.itertext()) for each in ElementTree.parse(io.StringIO(picture)).iter()
             if each.tag.endswith("}text")]
    assert any(text.endswith("multiplications") for text in texts)
    assert max(map(len, texts)) <= 40
