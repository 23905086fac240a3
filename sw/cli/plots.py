"""Pictures of benchmarks."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from zeroskip.sw import files
from zeroskip.sw.cli.files import check_writable
from zeroskip.sw.cli.report import EIE_CAUSES, PAGE, svg
from zeroskip.sw.errors import BadInput

KINDS = (".svg", ".html")


def check(path: Path) -> None:
    """Refuses a file that cannot be written, before any work is done for it."""
    if path.suffix not in KINDS:
        raise BadInput(f"{path}: a plot is a picture or a page; give a name that ends in "
                       f"{' or '.join(KINDS)}")
    check_writable(path)


def write(path: Path, rows: list[dict]) -> None:
    """Writes where the PE-cycles went in the rows of ``bench eie``: a picture, or a page with it,
    as the suffix of ``path`` says."""
    _write(path, "Where the cycles of the EIE array go", _utilisation(rows))


def write_scan(path: Path, densities: Sequence[float], found: dict[str, list[float]],
               metric: str) -> None:
    """Writes the curves of ``scan``, one a layer, like :func:`write`."""
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for layer, values in found.items():
        axes.plot(densities, values, marker="o", markersize=3, label=layer)
    axes.set_xscale("log")
    axes.set_xlabel("density of the layer, the others as they are")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.legend(title="layer", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _write(path, "Sensitivity of each layer", figure)


def _write(path: Path, title: str, figure: Figure) -> None:
    picture = svg(figure)
    if path.suffix == ".html":
        picture = PAGE.format(title=title, sections=picture)
    files.write(path, picture)


def _utilisation(rows: list[dict]) -> Figure:
    """A bar for each row, of its useful share and its losses; the paper's useful share as a
    mark. Rows of one layer stand together."""
    places, names, at, layer = [], [], 0.0, None
    for row in rows:
        at += 1 if row["layer"] == layer else 1.6
        layer = row["layer"]
        places.append(at)
        names.append(f"{layer}, {row['mask']}, {row['mode']}")
    figure = Figure(figsize=(9, 1 + 0.24 * at))
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for cause in ("useful", *rows[0]["loss"]):
        shares = [{**row["loss"], "useful": row["utilisation"]}[cause] for row in rows]
        words, colour = EIE_CAUSES[cause]
        axes.barh(places, shares, left=left, label=words, color=colour)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    known = [(row["paper_utilisation"], place) for row, place in zip(rows, places, strict=True)
             if row["paper_utilisation"]]
    if known:
        axes.plot(*zip(*known, strict=True), "d", color="black", markersize=4, linestyle="none",
                  label="useful in the paper")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"share of the cycles of {rows[0]['pes']} PEs")
    axes.legend(ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return figure
