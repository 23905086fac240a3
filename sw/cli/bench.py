"""Commands ``bench tensorcore``, ``bench area``, ``bench pack``, ``bench sim``."""

import time
from dataclasses import asdict, replace

import scipy.sparse
import typer

from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.targets import configuration
from zeroskip.sw.engines.eie.pack import pack as pack_matrix
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.experiments import benchmarks, gemm_benchmarks
from zeroskip.sw.experiments.layers import NINE
from zeroskip.sw.runtime import backends


def tensorcore(config: str | None, backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench tensorcore --help``."""
    made = configuration(config, "tensorcore")
    rtl = backends.rtl(backend or "cxxrtl")   # millions of cycles: no slow one unasked
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
    from zeroskip.fpga.area import synthesise
    from zeroskip.fpga.families import FAMILIES
    from zeroskip.hw.tensorcore.core import TensorCore

    made = configuration(config, "tensorcore")
    builds = {"sparse": made, "dense": replace(made, patterns=("dense",))}
    cases = [(family, soft) for family in FAMILIES.values() if family.mapped
             for soft in (False, True)]
    rows = []
    with screen.progress("synthesis") as update:
        for family, soft in cases:
            kind = "logic" if soft else "DSP blocks"
            update(len(rows), len(cases), f"{family.name}, multipliers in {kind}")
            sparse, dense = (asdict(synthesise(TensorCore(each), family, soft=soft))
                             for each in builds.values())
            rows.append({"family": family.name, "multipliers_in": kind, "sparse": sparse,
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
    indices = NINE["Alex-6"].weights("random", 64)
    with screen.progress("packing"):
        seconds = _best(lambda: pack_matrix(indices, 64, escapes=True))
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


def _found(name: str) -> bool:
    try:
        backends.rtl(name)
    except ToolMissing:
        return False
    return True


def sim(screen: Screen) -> None:
    """See ``zeroskip bench sim --help``."""
    rows, sizes = [], (1, 4, 16, 64)
    compiled = [backends.rtl(name) for name in ("cxxrtl", "verilator") if _found(name)]
    with screen.progress("simulating") as update:
        for done, pes in enumerate(sizes):
            update(done, len(sizes), f"{pes} PEs")
            slow = benchmarks.cycles_per_second(backends.rtl("python"), pes, 1)
            rows.append({"backend": "python", "pes": pes, "cycles_per_second": slow})
            for backend in compiled:
                fast = benchmarks.cycles_per_second(backend, pes, 40_000 // pes)
                rows.append({"backend": backend.name, "pes": pes, "cycles_per_second": fast,
                             "ratio": fast / slow})
    screen.table("clock cycles a second", ["backend", "PEs", "cycles/s", "over python"], [
        [row["backend"], row["pes"], row["cycles_per_second"], row.get("ratio", 1.0)]
        for row in rows])
    screen.result({"rows": rows})
