"""The demo's report: one HTML file with its pictures inside."""

import html
import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

CAUSES = {
    "useful": ("useful", "#2a7f62"),
    "padding": ("padding entries", "#c8963e"),
    "empty": ("only empty columns waiting", "#d9c58b"),
    "fill": ("waiting for the first non-zero", "#9db4c0"),
    "full": ("another PE's queue is full", "#b5485d"),
    "tail": ("slowest PE finishing", "#8e6c8a"),
    "writeback": ("write-back", "#5c6b73"),
}
"""Counter, its words in the report, its colour."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>zeroskip demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .9rem .2rem 0; text-align: left; }}
td.n {{ text-align: right; }} svg {{ max-width: 100%; height: auto; }}
</style>
<h1>A pruned network on the EIE array</h1>
<p>{summary}</p>
{sections}
</html>
"""


def write_report(path: Path, run, report: dict) -> None:
    """Writes the report of a :class:`~zeroskip.sw.cli.demo.Run` and its JSON to ``path``."""
    model = report["models"][0]
    speedup = model["dense_cycles_per_image"] / model["cycles_per_image"]
    verdict = ("equal, bit for bit, to the integer reference" if report["bit_exact"]
               else f"NOT equal to the integer reference: {run.verdict.difference}")
    layers = " - ".join(str(layer.inputs) for layer in run.part.layers)
    summary = (f"Handwritten digits, fully-connected {layers} - "
               f"{run.part.outputs}, {model['density']:.1%} of the weights "
               f"left, {model['pes']} PEs simulated from their RTL. All "
               f"{model['outputs_compared']:,} outputs of every layer of {model['images']} test "
               f"images are {verdict}.")
    sections = [
        ("Accuracy", _table(["stage", "accuracy"], [
            [name, f"{value:.1%}"] for name, value in model["accuracy"].items()]), ""),
        ("Storage", _table(["part", "bytes"], [
            [name, f"{size:,}"] for name, size in model["bytes"].items()]),
         _bars(model["bytes"])),
        ("Cycles", f"<p>{model['cycles_per_image']:.0f} cycles an image. A dense machine with as "
         f"many multipliers needs {model['dense_cycles_per_image']:,} at best: {speedup:.1f} times "
         f"more. Utilisation, useful multiplications over PEs times cycles: "
         f"{model['utilisation']:.1%}. Taking inputs and giving outputs is not counted. "
         f"Saturated: {model['inputs_saturated']} inputs, {model['outputs_saturated']} outputs."
         "</p>", _cycles(model)),
        ("Where the cycles went, per PE", "", _causes(run.statistics)),
        ("One layer over the PEs", "<p>Each dot is a weight that is left; the rows stand under "
         "the PE that owns them.</p>", _pattern(run)),
    ]
    path.write_text(PAGE.format(summary=html.escape(summary), sections="\n".join(
        f"<h2>{html.escape(title)}</h2>\n{text}\n{picture}" for title, text, picture in sections)))


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(
        "<tr>" + f"<td>{html.escape(row[0])}</td>"
        + "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in rows)
    return "<table><tr>" + "".join(f"<th>{name}</th>" for name in head) + f"</tr>{cells}</table>"


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zeroskip"}):
        figure.savefig(target, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = target.getvalue()
    return text[text.index("<svg"):]


def _bars(sizes: dict[str, int]) -> str:
    figure = Figure(figsize=(8, 1.6))
    axes = figure.subplots()
    left = 0
    for part in ("weights", "indices", "pointers", "codebooks", "biases"):
        axes.barh("packed", sizes[part], left=left, label=part)
        left += sizes[part]
    axes.barh("float32", sizes["float32"], color="#bbb")
    axes.set_xlabel("bytes")
    axes.legend(ncols=5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure)


def _cycles(model: dict) -> str:
    figure = Figure(figsize=(8, 1.2))
    axes = figure.subplots()
    axes.barh(["this array", "dense, at best"],
              [model["cycles_per_image"], model["dense_cycles_per_image"]],
              color=["#2a7f62", "#bbb"])
    axes.set_xlabel("cycles an image")
    return _svg(figure)


def _causes(statistics) -> str:
    shares = statistics.shares()
    pes = len(shares["useful"])
    figure = Figure(figsize=(8, 1 + 0.35 * pes))
    axes = figure.subplots()
    left = np.zeros(pes)
    for cause, (words, colour) in CAUSES.items():
        axes.barh([f"PE {k}" for k in range(pes)], shares[cause], left=left, label=words,
                  color=colour)
        left += shares[cause]
    axes.invert_yaxis()
    axes.set_xlabel("share of the computing cycles")
    axes.legend(ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure)


def _pattern(run) -> str:
    weight = run.compiled.reference[0].weight
    pes = run.part.config.pes
    bands = [weight[pe::pes] != 0 for pe in range(pes)]
    colours = ["white", *(matplotlib.colormaps["tab10"](pe % 10) for pe in range(pes))]
    figure = Figure(figsize=(8, 8))
    axes = figure.subplots()
    axes.imshow(np.concatenate([band * (pe + 1) for pe, band in enumerate(bands)]),
                cmap=ListedColormap(colours), interpolation="nearest", aspect="auto")
    ends = np.cumsum([len(band) for band in bands])
    axes.set_yticks([end - len(band) / 2 - 0.5 for end, band in zip(ends, bands, strict=True)],
                    [f"PE {pe}\n{band.sum()} weights" for pe, band in enumerate(bands)])
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="#888", linewidth=0.5)
    axes.set_xlabel("input")
    axes.set_title(f"layer {run.compiled.reference[0].name}")
    return _svg(figure)
