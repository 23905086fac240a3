"""Draws ``overview.svg``: ``.venv/bin/python docs/overview.py``."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

BLUE, GREEN, ORANGE, GREY = "#dbe7f5", "#dff0dc", "#fbe6cf", "#eeeeee"
BOXES = {   # left, bottom, width, height, colour, text
    "model": (0, 5.2, 2.1, 1.2, GREY, "your model\nONNX, torch"),
    "prune": (2.8, 5.2, 2.1, 1.2, BLUE, "prune"),
    "compile": (5.6, 5.2, 2.1, 1.2, BLUE, "compile,\nquantise"),
    "program": (8.4, 5.2, 2.1, 1.2, GREY, "model.zsk\nand reference"),
    "golden": (11.2, 5.9, 2.6, 0.5, ORANGE, "golden (integers)"),
    "rtl": (11.2, 5.2, 2.6, 0.5, ORANGE, "RTL, or a board"),
    "front": (0, 1.6, 2.1, 1.2, GREEN, "front\nserial line"),
    "bus": (2.8, 1.6, 2.1, 1.2, GREEN, "bus: registers,\nstreams"),
    "eie": (5.6, 2.4, 8.2, 1.5, GREEN, ""),
    "tc": (5.6, 0.3, 8.2, 1.5, GREEN, ""),
}
ARROWS = [("model", "prune"), ("prune", "compile"), ("compile", "program"), ("program", "golden"),
          ("program", "rtl"), ("front", "bus"), ("bus", "eie"), ("bus", "tc")]
INSIDE = {
    "eie": ("EIE array: any zero skipped", ["non-zero\ndetection", "broadcast,\nqueues",
                                            "sparse-\nmatrix read", "decode,\nmultiply"]),
    "tc": ("tensor core: two of each four", ["buffers,\nping-pong", "choice of\noperands",
                                             "tile of\nlanes", "requantise"]),
}


def box(axes, left, bottom, width, height, colour, text, size=9):
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, fc=colour, ec="#555555", lw=0.8,
                                  boxstyle="round,pad=0,rounding_size=0.12"))
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", size=size)


def arrow(axes, start, end):
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555", "lw": 1})


def main():
    mpl.rcParams.update({"svg.hashsalt": "zeroskip", "svg.fonttype": "none",
                         "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(9.2, 4.4))
    axes.set(xlim=(-0.1, 13.9), ylim=(0, 7.0))
    axes.axis("off")
    for name, (left, bottom, width, height, colour, text) in BOXES.items():
        box(axes, left, bottom, width, height, colour, text)
        if name in INSIDE:
            title, blocks = INSIDE[name]
            axes.text(left + 0.2, bottom + height - 0.12, title, size=9, va="top")
            for at, block in enumerate(blocks):
                box(axes, left + 0.2 + 2 * at, bottom + 0.15, 1.75, 0.8, "white", block, 8)
                if at:
                    arrow(axes, (left + 0.2 + 2 * at - 0.25, bottom + 0.55),
                          (left + 0.2 + 2 * at, bottom + 0.55))
    for source, target in ARROWS:
        left, bottom, width, height, *_ = BOXES[source]
        to_left, to_bottom, _, to_height, *_ = BOXES[target]
        arrow(axes, (left + width, bottom + height / 2), (to_left, to_bottom + to_height / 2))
    axes.text(12.5, 4.75, "every output equal", ha="center", size=8, style="italic")
    axes.text(0, 6.65, "toolchain", size=9, weight="bold")
    axes.text(0, 4.1, "a system: one bitstream runs any model that fits", size=9, weight="bold")
    figure.savefig(Path(__file__).with_name("overview.svg"), bbox_inches="tight",
                   metadata={"Date": None})


if __name__ == "__main__":
    main()
