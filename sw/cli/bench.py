"""Commands ``bench eie``, ``bench tensorcore``, ``bench area``, ``bench pack``, ``bench sim``."""

import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import scipy.sparse
import typer

from zeroskip.sim import benchmarks, engines, gemm_benchmarks
from zeroskip.sw.cli.engine import chosen
from zeroskip.sw.cli.files import configuration
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.pack.eie import pack as pack_matrix

DENSITY, ACTIVATIONS = 0.09, 0.35
"""Weights and activations that are not zero, as in the paper's fully-connected layers."""


def eie(pes: int, matrix: Path | None, engine: str | None, screen: Screen) -> None:
    """See ``zeroskip bench eie --help``."""
    if not 1 <= pes <= 256:
        raise BadInput(f"--pes must be 1 to 256, not {pes}")
    if matrix is None:
        name = "512x512"
        indices, vector = benchmarks.random_layer(512, 512, DENSITY, ACTIVATIONS)
    else:
        name = matrix.stem
        indices, vector = _read(matrix)
    rtl = engines.rtl(chosen(engine, screen))
    with screen.progress(f"{name} on {pes} PEs ({rtl.name})"):
        run = benchmarks.run_layer(indices, vector, replace(benchmarks.PAPER, pes=pes), rtl)

    hand = run.by_hand()
    row = {
        "layer": name, "mode": "paper", "mask": "random" if matrix is None else "given",
        "pes": pes, "ideal_cycles": run.ideal_cycles, "cycles": run.statistics.cycles,
        "utilisation": run.statistics.utilisation, "bits_per_nonzero": run.bits_per_nonzero(),
        "loss": run.loss(), "by_hand": hand, "exact": run.exact,
    }
    shown = ["layer", "pes", "ideal_cycles", "cycles", "utilisation", "bits_per_nonzero", "exact"]
    screen.table("one layer in RTL", shown, [[row[key] for key in shown]])
    screen.table("where the PE-cycles went: counters of the RTL", ["cause", "share"], [
        ["useful", f"{run.statistics.utilisation:.1%}"],
        *([cause, f"{share:.1%}"] for cause, share in row["loss"].items())])
    screen.table("the same cycles by hand: matrix, vector and two counters", ["part", "share"], [
        [part, f"{share:.1%}"] for part, share in hand.items()])
    screen.result({"rows": [row]})


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Codebook indices and activations of a ``--matrix`` file.

    Cycles depend on what is zero, not on the other values: any codebook index serves for a
    weight, and 1 for an activation.
    """
    try:
        with path.open("rb") as file:
            matrix = scipy.sparse.load_npz(file).tocsr().tocoo()    # sums what stands twice
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                activations = arrays.get("activations")
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; write one with scipy.sparse.save_npz") \
            from None
    except (ValueError, TypeError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: not a scipy sparse matrix ({error}); write one with "
                       "scipy.sparse.save_npz") from None
    if not all(matrix.shape):
        raise BadInput(f"{path}: the matrix is {list(matrix.shape)}; it needs rows and columns")
    _check_real(path, "the matrix", matrix.data)
    rows, columns = matrix.row[matrix.data != 0], matrix.col[matrix.data != 0]
    indices = np.zeros(matrix.shape, np.uint8)
    indices[rows, columns] = 1 + (rows + columns) % 15
    if activations is None:
        _, vector = benchmarks.random_layer(1, matrix.shape[1], 0, ACTIVATIONS)
        return indices, vector
    if activations.shape != (matrix.shape[1],):
        raise BadInput(f"{path}: 'activations' has shape {list(activations.shape)}, but the matrix "
                       f"has {matrix.shape[1]} columns; give one activation per column")
    _check_real(path, "'activations'", activations)
    return indices, (activations != 0).astype(np.int16)


def _check_real(path: Path, what: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        raise BadInput(f"{path}: {what} holds values that are not finite real numbers; "
                       "replace them")


def tensorcore(config: str | None, engine: str | None, screen: Screen) -> None:
    """See ``zeroskip bench tensorcore --help``."""
    made = configuration(config, "tensorcore")
    rtl = engines.rtl(engine or "cxxrtl")   # millions of cycles: no slow engine unasked
    patterns = made.patterns[1:]
    if not patterns:
        raise BadInput(f"the configuration '{config}' has no sparse pattern; choose another")
    runs, total = [], len(patterns) * len(gemm_benchmarks.SHAPES)
    with screen.progress(f"matrix products ({rtl.name})") as update:
        for pattern in patterns:
            for m, k, n in gemm_benchmarks.SHAPES:
                update(len(runs), total, f"{pattern}, {m} x {k} x {n} ({rtl.name})")
                runs.append(gemm_benchmarks.run_gemm(m, k, n, pattern, made, rtl))
        steady = {pattern: gemm_benchmarks.steady_state(pattern, made, rtl)
                  for pattern in patterns}
    rows = [{
        "m": run.m, "k": run.k, "n": run.n, "pattern": run.pattern,
        "dense_cycles": run.dense.cycles, "sparse_cycles": run.sparse.cycles,
        "speedup": run.speedup, "busy": run.sparse.utilisation,
        "dense_busy": run.dense.utilisation, "exact": run.exact} for run in runs]
    screen.table(f"{made.rows} x {made.columns} x {made.products} multipliers, in RTL; a 2:4 "
                 "A100 reaches 1.6 times its dense rate at 16384^3, 1.1 at 4096^3, of 2",
                 list(rows[0]), [list(row.values()) for row in rows])
    shares = [run.sparse.shares() for run in runs]
    screen.table("where the sparse cycles went", ["m", "k", "n", "pattern", *shares[0]], [
        [run.m, run.k, run.n, run.pattern, *(f"{part:.1%}" for part in share.values())]
        for run, share in zip(runs, shares, strict=True)])
    for pattern, ratio in steady.items():
        screen.text(f"steady state, {pattern} over dense: {ratio:.3f}")
    screen.result({"rows": rows, "steady": steady})
    if not all(run.exact for run in runs):
        raise typer.Exit(1)


def area(config: str | None, screen: Screen) -> None:
    """See ``zeroskip bench area --help``."""
    from zeroskip.fpga.area import FAMILIES, synthesise
    from zeroskip.hw.tensorcore.core import TensorCore

    made = configuration(config, "tensorcore")
    builds = {"sparse": made, "dense": replace(made, patterns=("dense",))}
    cases = [(family, soft) for family in FAMILIES for soft in (False, True)]
    rows = []
    with screen.progress("synthesis") as update:
        for family, soft in cases:
            kind = "logic" if soft else "DSP blocks"
            update(len(rows), len(cases), f"{family}, multipliers in {kind}")
            sparse, dense = (asdict(synthesise(TensorCore(each), family, soft=soft))
                             for each in builds.values())
            rows.append({"family": family, "multipliers_in": kind, "sparse": sparse,
                         "dense": dense, "ratio": sparse["logic"] / dense["logic"]})
    screen.table("after synthesis, sparse build / dense-only build", [
        "family", "multipliers in", "logic cells", "more", "flip-flops", "DSP blocks",
        "block RAMs"], [
        [row["family"], row["multipliers_in"], _pair(row, "logic"), f"{row['ratio'] - 1:+.1%}",
         *(_pair(row, what) for what in ("flip_flops", "multipliers", "memories"))]
        for row in rows])
    screen.result({"rows": rows})


def _pair(row: dict, what: str) -> str:
    return f"{row['sparse'][what]:,} / {row['dense'][what]:,}"


def pack(screen: Screen) -> None:
    """See ``zeroskip bench pack --help``."""
    indices, _ = benchmarks.random_layer(4096, 9216, DENSITY, 0)
    with screen.progress("packing"):
        seconds = _best(lambda: pack_matrix(indices, 64))
        scipy_seconds = _best(lambda: scipy.sparse.csc_matrix(indices))
    row = {"seconds": seconds, "scipy_seconds": scipy_seconds, "ratio": seconds / scipy_seconds}
    screen.table("pack 4096 x 9216 at 9 % into 64 PEs; best of 3", list(row), [list(row.values())])
    screen.result(row)


def _best(function) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def _found(engine: str) -> bool:
    try:
        engines.rtl(engine)
    except ToolMissing:
        return False
    return True


def sim(screen: Screen) -> None:
    """See ``zeroskip bench sim --help``."""
    rows, sizes = [], (1, 4, 16, 64)
    compiled = [engines.rtl(name) for name in ("cxxrtl", "verilator") if _found(name)]
    with screen.progress("simulating") as update:
        for done, pes in enumerate(sizes):
            update(done, len(sizes), f"{pes} PEs")
            slow = benchmarks.cycles_per_second(engines.rtl("python"), pes, 1)
            rows.append({"engine": "python", "pes": pes, "cycles_per_second": slow})
            for engine in compiled:
                fast = benchmarks.cycles_per_second(engine, pes, 40_000 // pes)
                rows.append({"engine": engine.name, "pes": pes, "cycles_per_second": fast,
                             "ratio": fast / slow})
    screen.table("clock cycles a second", ["engine", "PEs", "cycles/s", "over python"], [
        [row["engine"], row["pes"], row["cycles_per_second"], row.get("ratio", 1.0)]
        for row in rows])
    screen.result({"rows": rows})
