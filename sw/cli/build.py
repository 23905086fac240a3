"""Command ``build``: a board's bitstream, and a page about it."""

import html
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from zeroskip.sw.cli.files import make_folder
from zeroskip.sw.cli.report import PAGE, svg
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.errors import EngineError, ToolMissing
from zeroskip.sw.files import write


def build(board: str, config: str | None, out: Path, screen: Screen) -> None:
    """See ``zeroskip build --help``."""
    from zeroskip.fpga import boards
    from zeroskip.fpga.build import TimingMissed
    from zeroskip.fpga.build import build as run
    from zeroskip.fpga.family import KINDS
    from zeroskip.fpga.floor import floor
    from zeroskip.fpga.flow import BuildError

    design = boards.design(board, config)
    make_folder(out)
    try:
        with screen.progress(f"{design.name} for {board}") as update:
            report = run(design, out, progress=update)
    except TimingMissed as error:
        raise EngineError(str(error)) from None
    except BuildError as error:
        raise ToolMissing(str(error)) from None
    counts = [(words, report[kind], report["available"][kind])
              for kind, words in KINDS.items() if kind in report]
    write(out / "report.html", _page(design, report, counts, floor(out)))
    screen.table(f"{design.name} on {design.board.title}: {report['fmax_mhz']} MHz of "
                 f"{design.mhz:g} MHz", ["", "used", "there", "%"],
                 [[words, used, there, round(100 * used / there)]
                  for words, used, there in counts])
    bitstream = out / report["bitstream"]
    screen.text(f"{bitstream} after {report['seconds']:.0f} s; load it with "
                f"{design.board.programmer.format(bitstream)}")
    screen.text(f"critical path: {report['critical_path']}")
    screen.result(report)


def _page(design, report: dict, counts: list[tuple[str, int, int]],
          cells: list[tuple[int, int, str]]) -> str:
    rows = "".join(f'<tr><td>{words}</td><td class="n">{used:,}</td><td class="n">{there:,}</td>'
                   f'<td class="n">{used / there:.0%}</td></tr>' for words, used, there in counts)
    text = (f"{report['pes']} processing elements and {report['multipliers']} multipliers of a "
            f"tensor core. The clock is {design.mhz:g} MHz; nextpnr finds that the design reaches "
            f"{report['fmax_mhz']} MHz, with seed {report['seed']} of the placer. What limits it: "
            f"{report['critical_path']}.")
    sections = (f"<p>{html.escape(text)}</p>"
                f"<table><tr><th></th><th>used</th><th>there</th><th>%</th></tr>{rows}</table>"
                "<h2>Floor plan</h2><p>A dot is a tile of the device. Its colour is the block that "
                f"has most of its cells, and the fuller the tile the stronger it is.</p>"
                f"{_floor_plan(cells)}")
    return PAGE.format(title=html.escape(f"{design.name} on {design.board.title}"),
                       sections=sections)


def _floor_plan(cells: list[tuple[int, int, str]]) -> str:
    tiles = {}
    for x, y, block in cells:
        tiles.setdefault((x, y), Counter())[block] += 1
    sizes = Counter(block for *_, block in cells)
    palette = [*colormaps["tab20"].colors, *colormaps["tab20b"].colors]
    colours = {block: palette[at] for at, (block, _) in enumerate(sizes.most_common())}
    fullest = np.quantile([tile.total() for tile in tiles.values()], 0.95)
    figure = Figure(figsize=(9, 7))
    axes = figure.subplots()
    axes.scatter(
        [x for x, _ in tiles], [y for _, y in tiles], marker="s",
        s=(5 * 72 * 0.9 / (1 + max(max(at) for at in tiles))) ** 2, linewidths=0,
        c=[(*colours[tile.most_common(1)[0][0]], min(1, 0.25 + 0.75 * tile.total() / fullest))
           for tile in tiles.values()])
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.legend([Patch(color=colours[block]) for block in colours],
                [f"{block}: {sizes[block]:,}" for block in colours], frameon=False,
                loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return svg(figure)
