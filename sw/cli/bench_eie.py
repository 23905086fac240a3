"""Commands ``bench eie``, ``bench scaling``, ``bench ablation``: cycles of the EIE array in RTL."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import scipy.sparse
import typer

from zeroskip.sw.cli import plots
from zeroskip.sw.cli.backend import chosen
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.engines.checks import WEIGHTS
from zeroskip.sw.errors import BadInput
from zeroskip.sw.experiments import benchmarks
from zeroskip.sw.experiments.benchmarks import MODES, Figures, Job, array_config
from zeroskip.sw.experiments.layers import MASKS, NINE, random_vector
from zeroskip.sw.formats.arrayfile import read_npz
from zeroskip.sw.runtime import backends

ACTIVATIONS = 0.35
"""Share of activations that are not zero where a given matrix comes without; that of the paper's
fully-connected layers."""

PAPER_MHZ = 800
"""Clock of the paper's array."""

SIZES = (1, 4, 16, 64, 128, 256)
"""Numbers of PEs of ``bench scaling``."""

Results = list[tuple[Job, Figures]]


def eie(pes: int, layers: str | None, modes: str | None, masks: str | None, matrix: Path | None,
        plot: Path | None, backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench eie --help``."""
    if not 1 <= pes <= 256:
        raise BadInput(f"--pes must be 1 to 256, not {pes}")
    if matrix and (layers or masks):
        raise BadInput(f"--matrix gives the one layer to run, {matrix}; leave out --layers and "
                       "--mask")
    if plot:
        plots.check(plot)
    modes = _names("mode", modes, MODES, MODES)
    if matrix:
        given = _read(matrix)
        jobs = [_job(matrix.stem, "given", mode, pes, given) for mode in modes]
    else:
        layers = _names("layer", layers, NINE, NINE)
        masks = _names("mask", masks, MASKS, ("random", "skewed"))
        jobs = [_job(layer, mask, mode, pes)
                for layer in layers for mask in masks for mode in modes]
    results = _run(jobs, backend, screen)
    rows = [{**row, **_anchors(row, results)} for row in map(_row, results)]
    means = _means(rows, ("utilisation", "bits_per_nonzero", "speedup"))
    _show(rows, means, screen)
    if plot:
        plots.write(plot, rows)
    screen.result({"rows": rows, "means": means})
    _check_exact(results)


def scaling(layers: str | None, backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench scaling --help``."""
    layers = _names("layer", layers, NINE, ("Alex-7", "NT-We"))
    jobs = []
    for layer in layers:
        for pes in SIZES:
            jobs += [_job(layer, "random", mode, pes) for mode in MODES]
            last = jobs[-1]
            if last.config.groups > 1:
                one = replace(last.config, groups=1)
                jobs.append(replace(last, mode="zeroskip, one group", config=one))
    results = _run(jobs, backend, screen)
    rows = [_row(each) for each in results]
    screen.table("random masks in RTL; a cycle's useful multiplications are the speed-up over one "
                 "PE that never waits",
                 ["layer", "mode", "PEs", "cycles", "model", "useful", "useful a cycle"], [
                     [row["layer"], row["mode"], row["pes"], row["cycles"], row["model_cycles"],
                      row["utilisation"], row["pes"] * row["utilisation"]] for row in rows])
    screen.result({"rows": rows})
    _check_exact(results)


def ablation(layers: str | None, backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench ablation --help``."""
    layers = _names("layer", layers, NINE, NINE)
    results = _run([Job(layer, mask, step, config, balance)
                    for step, config, balance in benchmarks.ablation(64)
                    for mask in ("random", "skewed") for layer in layers], backend, screen)
    rows = [_row(each) for each in results]
    means = _means(rows, ("utilisation", "bits_per_nonzero"))
    _show_means(f"one improvement after another; geometric means of {', '.join(layers)}", means,
                screen)
    screen.result({"rows": rows, "means": means})
    _check_exact(results)


def _names(what: str, given: str | None, known: Iterable[str],
           default: Iterable[str]) -> tuple[str, ...]:
    """The names in an option, separated by commas, or those that it stands for when left out."""
    if given is None:
        return tuple(default)
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        if name not in known:
            raise BadInput(f"there is no {what} '{name}'; choose from {', '.join(known)}")
    return names


def _job(layer: str, mask: str, mode: str, pes: int, given: tuple | None = None) -> Job:
    config = array_config(mode, pes, nine=given is None)
    return Job(layer, mask, mode, config, mode == "zeroskip", given)


def _run(jobs: list[Job], backend: str | None, screen: Screen) -> Results:
    """What each job gave, in order; says on stderr how each ended when it did."""
    name = backends.rtl(chosen(backend, screen)).name
    found = {}
    with screen.progress(f"{len(jobs)} runs ({name})") as update:
        update(0, len(jobs))
        for number, figures in benchmarks.run_jobs(jobs, name):
            job, found[number] = jobs[number], figures
            update(len(found), len(jobs))
            screen.notice(f"{job.layer}, {job.mask}, {job.mode}, {job.config.pes} PEs: "
                          f"{figures.cycles:,} cycles, {figures.utilisation:.1%} useful")
    return [(job, found[number]) for number, job in enumerate(jobs)]


def _row(result: tuple[Job, Figures]) -> dict:
    job, figures = result
    return {"layer": job.layer, "mode": job.mode, "mask": job.mask, "pes": job.config.pes,
            **asdict(figures)}


def _anchors(row: dict, results: Results) -> dict:
    """The paper's figures for its layer, and the speed-up over its mode on the same matrix."""
    paper = NINE.get(row["layer"]) if row["mask"] != "given" else None
    base = [figures.cycles for job, figures in results
            if (job.layer, job.mask, job.mode) == (row["layer"], row["mask"], "paper")]
    return {"speedup": base[0] / row["cycles"] if base else None,
            "paper_cycles": round(paper.actual_us * PAPER_MHZ) if paper else None,
            "paper_utilisation": paper.utilisation if paper else None}


def _means(rows: list[dict], keys: tuple[str, ...]) -> list[dict]:
    """Geometric means of ``keys`` over the layers for each mode and mask, None where a value is
    missing or zero."""
    means = []
    for mode, mask in dict.fromkeys((row["mode"], row["mask"]) for row in rows):
        mine = [row for row in rows if (row["mode"], row["mask"]) == (mode, mask)]
        values = {key: [row[key] for row in mine] for key in keys}
        means.append({"mode": mode, "mask": mask} | {
            key: geometric_mean(each) if all(each) else None for key, each in values.items()})
    return means


def _show(rows: list[dict], means: list[dict], screen: Screen) -> None:
    first = ["layer", "mask", "mode"]
    columns = {"ideal": "ideal_cycles", "RTL": "cycles", "useful": "utilisation",
               "paper's": "paper_utilisation", "faster": "speedup", "bits": "bits_per_nonzero"}
    screen.table(f"cycles of {rows[0]['pes']} PEs, what is useful of them, what was on the paper's "
                 "64; bits for a non-zero weight", [*first, *columns],
                 [[row[key] for key in [*first, *columns.values()]] for row in rows])
    screen.table("where the PE-cycles went: counters of the RTL",
                 [*first, "useful", *rows[0]["loss"]], [
        [*(row[key] for key in first), f"{row['utilisation']:.1%}",
         *(f"{share:.1%}" for share in row["loss"].values())] for row in rows])
    _show_means("geometric means over the layers", means, screen)
    worst = max(abs(row["model_cycles"] / row["cycles"] - 1) for row in rows)
    exact = sum(row["exact"] for row in rows)
    screen.text(f"The cycle model is off by {worst:.2%} at most. Every output equals the integer "
                f"reference in {exact} of {len(rows)} runs.")


def _show_means(title: str, means: list[dict], screen: Screen) -> None:
    screen.table(title, [name.replace("_", " ") for name in means[0]],
                 [list(mean.values()) for mean in means])


def _check_exact(results: Results) -> None:
    """Exit code 1 if an output differs from the integer reference's."""
    if not all(figures.exact for _, figures in results):
        raise typer.Exit(1)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Codebook indices and activations of a ``--matrix`` file.

    Cycles depend on what is zero, not on the other values: any codebook index serves for a
    weight, and 1 for an activation.
    """
    arrays = read_npz(path, "a scipy sparse matrix", "write one with scipy.sparse.save_npz")
    try:
        matrix = _sparse(arrays)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise BadInput(f"{path}: not a scipy sparse matrix ({error}); write one with "
                       "scipy.sparse.save_npz") from None
    activations = arrays.get("activations")
    _check_real(path, "the matrix", matrix.data)
    rows, columns = matrix.row[matrix.data != 0], matrix.col[matrix.data != 0]
    indices = np.zeros(matrix.shape, np.uint8)
    indices[rows, columns] = 1 + (rows + columns) % 15
    if activations is None:
        return indices, random_vector(matrix.shape[1], ACTIVATIONS)
    if activations.shape != (matrix.shape[1],):
        raise BadInput(f"{path}: 'activations' has shape {list(activations.shape)}, but the matrix "
                       f"has {matrix.shape[1]} columns; give one activation per column")
    _check_real(path, "'activations'", activations)
    return indices, (activations != 0).astype(np.int16)


def _sparse(arrays: dict[str, np.ndarray]) -> scipy.sparse.coo_array:
    """The matrix of what ``scipy.sparse.save_npz`` writes; what stands twice is summed."""
    kind = arrays["format"].item()
    kind = kind.decode() if isinstance(kind, bytes) else kind
    shape, data = tuple(arrays["shape"].tolist()), arrays["data"]
    if len(shape) != 2 or not min(shape) >= 1:
        raise ValueError(f"its shape is {list(shape)}, and it needs rows and columns")
    if prod(shape) > WEIGHTS:
        raise ValueError(f"its {shape[0]:,} x {shape[1]:,} places are more than {WEIGHTS:,}")
    if kind in ("csr", "csc", "bsr"):
        make = getattr(scipy.sparse, f"{kind}_array")
        matrix = make((data, arrays["indices"], arrays["indptr"]), shape)
        matrix.check_format(full_check=True)
    elif kind == "coo":
        matrix = scipy.sparse.coo_array((data, (arrays["row"], arrays["col"])), shape)
    elif kind == "dia":
        matrix = scipy.sparse.dia_array((data, arrays["offsets"]), shape)
    else:
        raise ValueError(f"its format is {kind!r}")
    return matrix.tocsr().tocoo()


def _check_real(path: Path, what: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        raise BadInput(f"{path}: {what} holds values that are not finite real numbers; "
                       "replace them")
