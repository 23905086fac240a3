"""A program as a picture: its steps in layers from top to bottom, what one writes above those that
read it, in the colours of their engines.

A step stands below all that it reads. What reads from further up is led around the steps between,
as if there were a small step on each level, and each level is sorted by where its neighbours stand
(K. Sugiyama, S. Tagawa and M. Toda, "Methods for visual understanding of hierarchical system
structures", 1981).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path as Curve

from zeroskip.sw.api.page import number, operators
from zeroskip.sw.compiler.program import Port, Program
from zeroskip.sw.runtime.facts import StepFacts

COLOURS = ("#2a7f62", "#4a6fa5", "#b5485d", "#8e6c8a", "#c8963e")
"""Of the engines, in the order in which they occur."""

HOST, END = "#d9c58b", "#e8e8e8"
"""Colours of the host's steps, and of inputs and outputs."""

BOX, THIN, TALL, LEVEL = 2.7, 0.25, 0.4, 0.62
"""Inches: widths of a step and of a line beside one, the height of a step and of its level."""

LETTERS = 40
"""Of a line in a box, at most."""

SWEEPS = 4
"""How often all levels are sorted, from above and from below in turn."""


@dataclass(eq=False)
class _Place:
    """A box, or where a line passes a level."""

    lines: tuple[str, ...] = ()
    colour: str = ""
    level: int = 0
    x: float = 0.0
    above: list["_Place"] = field(default_factory=list)
    below: list["_Place"] = field(default_factory=list)

    @property
    def width(self) -> float:
        return BOX if self.lines else THIN


def draw(program: Program, steps: Sequence[StepFacts]) -> Figure:
    """The picture of a program, of which ``steps`` are the facts."""
    engines = dict.fromkeys(step.engine for step in steps if step.layers)
    colours = dict(zip(engines, (COLOURS * len(engines))[:len(engines)], strict=True))
    levels = _sorted(_levels(_boxes(program, steps, colours)))
    width = max(sum(place.width + THIN for place in level) for level in levels)
    figure = Figure(figsize=(max(width, 6), LEVEL * (len(levels) + 1)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, figure.get_figwidth())
    axes.set_ylim(figure.get_figheight(), 0)
    axes.set_axis_off()
    for level in levels:
        _spread(level, figure.get_figwidth() / 2)
    for level in levels:
        for place in level:
            _draw(axes, place)
    if any(not step.layers for step in steps):
        colours["host"] = HOST
    axes.legend([Patch(color=colour) for colour in colours.values()], list(colours),
                ncols=len(colours), frameon=False, loc="upper left", fontsize=8)
    return figure


def _boxes(program: Program, steps: Sequence[StepFacts], colours: dict[str, str]) -> list[_Place]:
    """Inputs, steps and outputs, each below those that it reads."""
    boxes = [_Place((_cut(port.name), _type(program, port)), END) for port in program.inputs]
    writers = dict(zip((port.buffer for port in program.inputs), boxes, strict=True))
    for step in steps:
        box = _Place(_lines(step), colours.get(step.engine, HOST))
        _under(box, [writers[name] for name in step.reads])
        writers |= dict.fromkeys(step.writes, box)
        boxes.append(box)
    for port in program.outputs:
        boxes.append(_Place((_cut(port.name), _type(program, port)), END))
        _under(boxes[-1], [writers[port.buffer]])
    return boxes


def _under(box: _Place, sources: list[_Place]) -> None:
    box.above = list(dict.fromkeys(sources))
    box.level = 1 + max((source.level for source in sources), default=-1)


def _levels(boxes: list[_Place]) -> list[list[_Place]]:
    """Boxes by level, and between the ends of a line a place on each level that it passes."""
    levels: list[list[_Place]] = [[] for _ in range(1 + max(box.level for box in boxes))]
    passing: dict[tuple[int, int], _Place] = {}
    for box in boxes:
        levels[box.level].append(box)
        for at, source in enumerate(box.above):
            last = source
            for level in range(source.level + 1, box.level):
                place = passing.get((id(source), level))
                if place is None:
                    place = passing[id(source), level] = _Place(level=level, above=[last])
                    last.below.append(place)
                    levels[level].append(place)
                last = place
            box.above[at] = last
            last.below.append(box)
    return levels


def _sorted(levels: list[list[_Place]]) -> list[list[_Place]]:
    """Each level in an order in which few lines cross."""
    for level in levels:
        _number(level)
    for sweep in range(SWEEPS):
        for level in levels[1:] if sweep % 2 == 0 else levels[-2::-1]:
            sides = [place.above if sweep % 2 == 0 else place.below for place in level]
            for place, others in zip(level, sides, strict=True):
                place.x = fmean(other.x for other in others) if others else place.x
            level.sort(key=lambda place: place.x)
            _number(level)
    return levels


def _number(level: list[_Place]) -> None:
    for at, place in enumerate(level):
        place.x = at - (len(level) - 1) / 2


def _spread(level: list[_Place], middle: float) -> None:
    """Places of a level in inches."""
    left = middle - sum(place.width + THIN for place in level) / 2
    for place in level:
        place.x = left + (place.width + THIN) / 2
        left += place.width + THIN


def _draw(axes, place: _Place) -> None:
    y = LEVEL * (place.level + 1)
    top = y - TALL / 2
    for other in place.above:
        start = LEVEL * (other.level + 1) + TALL / 2
        bend = (start + top) / 2
        axes.add_patch(PathPatch(Curve(
            [(other.x, start), (other.x, bend), (place.x, bend), (place.x, top)],
            [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]),
            fill=False, edgecolor="#888", linewidth=0.8))
    if not place.lines:
        axes.plot([place.x, place.x], [top, top + TALL], color="#888", linewidth=0.8)
        return
    axes.add_patch(Rectangle((place.x - BOX / 2, top), BOX, TALL, facecolor=place.colour,
                             edgecolor="#666", linewidth=0.5))
    dark = place.colour in COLOURS
    axes.text(place.x, y, "\n".join(place.lines), ha="center", va="center", fontsize=7,
              color="white" if dark else "black")


def _lines(step: StepFacts) -> tuple[str, ...]:
    """What stands in a step's box."""
    if not step.layers:
        return _cut(operators(step)), f"{number(step.operations)} operations"
    names = [layer.name for layer in step.layers]
    named = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, {len(names)} layers"
    work = sum(layer.multiplications for layer in step.layers)
    return _cut(named), f"{number(work)} multiplications"


def _type(program: Program, port: Port) -> str:
    return f"{port.dtype} {list(program.buffers[port.buffer].shape)}"


def _cut(text: str) -> str:
    """A line that fits a box, the middle left out; of signs that are none of a text a dot."""
    text = "".join(each if each.isprintable() else "." for each in text)
    if len(text) <= LETTERS:
        return text
    return f"{text[:LETTERS // 2 - 1]}...{text[-(LETTERS // 2 - 2):]}"
