"""Reports: one HTML file with its pictures inside; those of the demo, and of a run."""

import html
import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from zeroskip.sw.api import page
from zeroskip.sw.cli import screen
from zeroskip.sw.cli.picture import draw
from zeroskip.sw.compiler.compile import storage
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.files import write
from zeroskip.sw.runtime.facts import StepFacts, totals

matplotlib.rcParams["text.parse_math"] = False      # a model's names are no formulas

EIE_CAUSES = {
    "useful": ("useful", "#2a7f62"),
    "padding": ("padding entries", "#c8963e"),
    "empty": ("only empty columns waiting", "#d9c58b"),
    "fill": ("waiting for the first non-zero", "#9db4c0"),
    "full": ("another PE's queue is full", "#b5485d"),
    "tail": ("slowest PE finishing", "#8e6c8a"),
}
"""Counter, its words in the report, its colour."""

CORE_CAUSES = {
    "steps": ("computing", "#2a7f62"),
    "wait_weights": ("weights not loaded yet", "#c8963e"),
    "wait_activations": ("activations not loaded yet", "#d9c58b"),
    "wait_outputs": ("finished rows have to leave", "#b5485d"),
    "rest": ("pipeline fills and empties", "#9db4c0"),
}
"""As above, of the tensor core."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .9rem .2rem 0; text-align: left; }}
td.n {{ text-align: right; }} svg {{ max-width: 100%; height: auto; }}
tfoot td {{ border-top: 1px solid #888; }} .wide {{ overflow-x: auto; }}
.wide svg {{ max-width: none; }}
</style>
<h1>{title}</h1>
{sections}
</html>
"""


def write_report(path: Path, runs: list, models: list[dict]) -> None:
    """Writes the report of the :class:`~zeroskip.sw.cli.demo.Run` of each engine, and their
    JSON, to ``path``."""
    sections = [_section(2, "Side by side", _table(*comparison(models)))]
    for run, model in zip(runs, models, strict=True):
        title, text, pictures = run.section(run, model)
        verdict = ("equal, bit for bit, to the integer reference" if model["exact"]
                   else f"NOT equal to the integer reference: {run.verdict.difference}")
        text += (f" All {model['outputs_compared']:,} outputs of every layer of "
                 f"{model['images']} test images are {verdict}. Saturated: "
                 f"{model['inputs_saturated']} inputs, {model['outputs_saturated']} outputs.")
        sections.append(_section(2, title, f"<p>{html.escape(text)}</p>"))
        sections += [_section(3, *picture) for picture in [
            ("Storage", _bars(model["bytes"])), *pictures]]
    write(path, PAGE.format(title="Pruned networks on sparse hardware",
                            sections="\n".join(sections)))


def write_run(path: Path, title: str, program: Program, steps: tuple[StepFacts, ...],
              facts: dict) -> None:
    """Writes the page of a run of ``program``: ``facts`` about it as a whole, and ``steps``."""
    sums, sizes = totals(steps), storage(program)
    shares = [["multiplications of engines, a sample", page.number(sums.multiplications)],
              ["operations of the host, a sample", page.number(sums.operations)],
              ["the host's share of all operations", f"{sums.host_operations:.2%}"],
              ["the host's share of the bytes that steps read and write", f"{sums.host_moved:.2%}"],
              *([f"bytes, {kind}", page.number(size)] for kind, size in sizes.items())]
    told = [[name.replace("_", " "), screen.text(value)] for name, value in facts.items()]
    write(path, PAGE.format(title=html.escape(title), sections="\n".join([
        _table(["the run", ""], told), _section(2, "Layers", f"<p>{html.escape(LAYERS)}</p>"
                                               f'<div class="wide">{page.table(steps)}</div>'),
        _section(2, "Engines and host", _table(["", ""], shares) + f"<p>{html.escape(SHARES)}</p>"),
        _section(2, "The graph", f'<div class="wide">{svg(draw(program, steps))}</div>')])))


LAYERS = ("Multiplications and cycles are those of a sample. Cycles, utilisation and saturated "
          "outputs are what the cores' counters said of this run; where a core counts its layers "
          "together they stand once beside them, and a dash where nothing counts. Faster than "
          "dense: cycles of as many multipliers that compute every weight and never wait, over "
          "those counted. The worst difference is that of the layer's integer reference from the "
          "float model, on the same inputs.")

SHARES = ("Operations are counted from the shapes: multiplications of products, and one for each "
          "value that any other operator gives.")


def _section(level: int, title: str, content: str) -> str:
    return f"<h{level}>{html.escape(title)}</h{level}>\n{content}"


def comparison(models: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table that sets the engines side by side."""
    stages = list(dict.fromkeys(stage for model in models for stage in model["accuracy"]))
    rows = [[f"accuracy, {stage}", *(
        f"{model['accuracy'][stage]:.1%}" if stage in model["accuracy"] else "-"
        for model in models)] for stage in stages]
    rows += [[f"bytes, {kind}", *(f"{model['bytes'][kind]:,}" for model in models)]
             for kind in ("packed", "float32")]
    rows += [[name, *(f"{model[key]:{form}}" for model in models)] for name, key, form in (
        ("weights left", "density", ".1%"), ("multipliers", "multipliers", ","),
        ("cycles an image", "cycles_per_image", ",.0f"),
        ("cycles, skipping nothing", "dense_cycles_per_image", ",.0f"),
        ("times faster", "speedup", ".2f"), ("utilisation", "utilisation", ".1%"),
        ("inputs saturated", "inputs_saturated", ","),
        ("outputs saturated", "outputs_saturated", ","),
        ("outputs compared", "outputs_compared", ","))]
    return ["", *(f"{model['engine']} ({model['config']})" for model in models)], rows


def eie(run, model: dict) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, text, and pictures with their titles, of a run on the EIE array."""
    layers = " - ".join(str(layer.inputs) for layer in run.image.layers)
    text = (f"Fully-connected {layers} - {run.image.outputs}, pruned weight by weight, in 4-bit "
            f"shared weights; {model['multipliers']} PEs simulated from their RTL. Skipping "
            "nothing is the least that as many multipliers need. Taking inputs and giving "
            "outputs is not counted.")
    shares = run.statistics.shares()
    names = [f"PE {k}" for k in range(run.image.config.pes)]
    return "The EIE array", text, [
        ("Cycles", _cycles(model)),
        ("Where the cycles went, per PE", _causes(EIE_CAUSES, names, shares)),
        ("One layer over the PEs", "<p>Each dot is a weight that is left; the rows stand under "
         "the PE that owns them.</p>" + _rows_by_pe(run))]


def tensorcore(run, model: dict) -> tuple[str, str, list[tuple[str, str]]]:
    """As :func:`eie`, of a run on the tensor core."""
    config = run.image.config
    layers = ", ".join(f"{layer.name} {layer.rows} x {layer.columns} ({layer.pattern})"
                       for layer in run.image.layers)
    text = (f"A convolutional network, of each four weights along K at most two left, int8 with a "
            f"scale per channel. As matrices: {layers}. A tile of {config.rows} x "
            f"{config.columns} accumulators with {config.products} multipliers each, simulated "
            "from its RTL. Skipping nothing is the same network in dense mode on the same core. "
            "Cycles count from a layer's command to its last output.")
    counts = run.statistics.layers
    shares = {cause: np.array([layer.get(cause, 0) / layer["cycles"] for layer in counts])
              for cause in CORE_CAUSES}
    shares["rest"] = 1 - sum(shares.values())
    names = [layer.name for layer in run.image.layers]
    return "The tensor core", text, [
        ("Cycles", _cycles(model)),
        ("Where the cycles went, per layer", _causes(CORE_CAUSES, names, shares)),
        ("Two of each four", "<p>The first rows of a layer; each dot is a weight that is left, the "
         "lines are 16 columns apart.</p>" + _groups(run))]


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(
        "<tr>" + f"<td>{html.escape(row[0])}</td>"
        + "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in rows)
    return "<table><tr>" + "".join(f"<th>{name}</th>" for name in head) + f"</tr>{cells}</table>"


def svg(figure: Figure) -> str:
    """A picture as it stands in a page."""
    target = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zeroskip"}):
        figure.savefig(target, format="svg", bbox_inches="tight",
                       metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = target.getvalue()
    return text[text.index("<svg"):]


def _bars(sizes: dict[str, int]) -> str:
    figure = Figure(figsize=(8, 1.6))
    axes = figure.subplots()
    left = 0
    for part in [part for part in sizes if part not in ("packed", "float32")]:
        axes.barh("packed", sizes[part], left=left, label=part)
        left += sizes[part]
    axes.barh("float32", sizes["float32"], color="#bbb")
    axes.set_xlabel("bytes")
    axes.legend(ncols=5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return svg(figure)


def _cycles(model: dict) -> str:
    figure = Figure(figsize=(8, 1.2))
    axes = figure.subplots()
    axes.barh(["this engine", "skipping nothing"],
              [model["cycles_per_image"], model["dense_cycles_per_image"]],
              color=["#2a7f62", "#bbb"])
    axes.set_xlabel("cycles an image")
    return svg(figure)


def _causes(causes: dict, names: list[str], shares: dict[str, np.ndarray]) -> str:
    """A bar per name, of the shares [names] by cause."""
    figure = Figure(figsize=(8, 1 + 0.35 * len(names)))
    axes = figure.subplots()
    left = np.zeros(len(names))
    for cause, (words, colour) in causes.items():
        axes.barh(names, shares[cause], left=left, label=words, color=colour)
        left += shares[cause]
    axes.invert_yaxis()
    axes.set_xlabel("share of the computing cycles")
    axes.legend(ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return svg(figure)


def _rows_by_pe(run) -> str:
    weight = run.compiled.reference[0].weight
    pes = run.image.config.pes
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
    return svg(figure)


def _groups(run) -> str:
    layer = max(run.compiled.reference, key=lambda layer: layer.weight.size)
    weight = layer.weight[:16, :128] != 0
    figure = Figure(figsize=(8, 2))
    axes = figure.subplots()
    axes.imshow(weight, cmap=ListedColormap(["white", "#2a7f62"]), interpolation="nearest",
                aspect="auto")
    for column in range(16, weight.shape[1], 16):
        axes.axvline(column - 0.5, color="#888", linewidth=0.5)
    axes.set_xlabel("K")
    axes.set_ylabel("output channel")
    axes.set_title(f"layer {layer.name}")
    return svg(figure)
