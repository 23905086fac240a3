"""``make mutate``: how many small faults in the sources the tests notice.

Mutants are drawn with a fixed seed (``mutants.py``); each stands alone in a copy of the sources,
on which the tests of its file run until one fails. Whatever ends them but success kills: a failed
test, an error on import, the time-out of three times the processor time that the unchanged sources
take. Results go to ``build/mutate``, under a hash of the mutated file and of its tests, so that a
stopped run goes on; after a change elsewhere, remove that folder.

mutmut and cosmic-ray know neither Amaranth's assignments nor conditions, edit in place, and start
Python and its libraries, seconds each, for every mutant; here a process that has them forks.
"""

import argparse
import compileall
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import py_compile
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

from mutants import Mutant, sample

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build/mutate"
NOTES = ROOT / "docs/mutation.toml"

PARTS = {
    "hw": ["hw/**/*.py"],
    "sw": [*(f"sw/{name}/*.py" for name in ("compiler", "formats", "frontends", "quantize")),
           "sw/engines/**/*.py", "sw/graph/im2col.py"],
}
TESTS = {
    "hw/counters.py": ["hw/eie/test_counters.py"],
    "hw/netlist/share.py": ["hw/netlist/test_emit.py"],
    "hw/system/top.py": ["sim/test_virtual.py", "sw/runtime/test_board.py"],
    "hw/eie/array.py": ["sim/test_array.py"],
    "hw/eie/rows.py": ["hw/eie/test_spmat.py"],
    "hw/eie/search.py": ["hw/eie/test_spmat.py"],
    "hw/eie/unpack.py": ["hw/eie/test_spmat.py"],
    "hw/eie/sequencer.py": ["hw/eie/test_control.py"],
    "hw/tensorcore/drain.py": ["hw/tensorcore/test_core.py"],
    "hw/eie/layouts.py": ["hw/eie/test_control.py", "sw/engines/eie/test_records.py",
                          "sim/test_array.py"],
    "hw/bus.py": ["hw/system/test_registers.py", "hw/fronts/test_endpoint.py"],
    "hw/core.py": ["hw/eie/test_config.py"],
    **{f"hw/fronts/{name}.py": ["hw/fronts/test_endpoint.py"]
       for name in ("frame", "receiver", "executor", "sender")},
    "hw/system/corepage.py": ["hw/system/test_accelerator.py"],
    "hw/tensorcore/layouts.py": ["hw/tensorcore/test_windows.py", "hw/tensorcore/test_tile.py",
                                 "sw/engines/tensorcore/test_schedule.py",
                                 "hw/tensorcore/test_core.py"],
    "sw/compiler/placement.py": ["sw/compiler/test_compile.py", "sw/engines/test_toy.py"],
    "sw/compiler/quantise.py": ["sw/compiler/test_compile.py", "sw/compiler/test_sharing.py"],
    "sw/compiler/sections.py": ["sw/compiler/test_sharing.py", "sw/compiler/test_patches.py"],
    "sw/engines/eie/blocks.py": ["sw/engines/eie/test_loads.py"],
    "sw/frontends/rewriting.py": ["sw/frontends/test_recurrent.py",
                                  "sw/frontends/test_transposed.py"],
    "sw/engines/base.py": ["sw/engines/test_toy.py"],
    "sw/engines/csource.py": ["sw/runtime/test_export_c.py"],
    "sw/engines/registry.py": ["sw/engines/test_toy.py"],
    "sw/engines/eie/check.py": ["sw/engines/eie/test_image.py"],
    "sw/engines/eie/engine.py": ["sw/compiler/test_compile.py", "sw/runtime/test_float_model.py"],
    "sw/engines/eie/export.py": ["sw/runtime/test_export_c.py"],
    "sw/engines/eie/host.py": ["sw/runtime/test_board_backend.py", "sim/test_array.py"],
    "sw/engines/eie/layer.py": ["sw/compiler/test_reference.py", "sw/engines/eie/test_quantize.py"],
    "sw/engines/tensorcore/engine.py": ["sw/compiler/test_compile.py",
                                        "sw/runtime/test_float_model.py"],
    "sw/engines/tensorcore/export.py": ["sw/runtime/test_export_c.py"],
    "sw/engines/tensorcore/layer.py": ["sw/compiler/test_reference.py",
                                       "sw/engines/tensorcore/test_image.py"],
    "sw/engines/tensorcore/packed.py": ["sw/engines/tensorcore/test_image.py"],
    "sw/engines/tensorcore/product.py": ["sw/engines/tensorcore/test_host.py"],
    "sw/formats/arrayfile.py": ["sw/formats/test_readers.py"],
    "sw/formats/tensorfile.py": ["sw/formats/test_tensors.py", "sw/compiler/test_program.py"],
    "sw/formats/zipped.py": ["sw/formats/test_readers.py"],
    "sw/frontends/clean.py": ["sw/frontends/test_onnx.py", "sw/frontends/test_external.py"],
    "sw/frontends/constants.py": ["sw/frontends/test_onnx_quantised.py"],
    "sw/frontends/contrib.py": ["sw/graph/test_onnxruntime.py"],
    "sw/frontends/tail.py": ["sw/frontends/test_onnx.py",
                             "sw/frontends/test_onnx_quantised.py"],
    "sw/frontends/values.py": ["sw/frontends/test_onnx_quantised.py"],
    "sw/frontends/lift.py": ["sw/frontends/test_onnx_quantised.py", "sw/frontends/test_onnx.py"],
    "sw/frontends/load.py": ["sw/frontends/test_onnx.py", "sw/frontends/test_torch.py"],
    "sw/frontends/onnx_writer.py": ["sw/frontends/test_onnx.py"],
    "sw/frontends/products.py": ["sw/frontends/test_onnx.py",
                                 "sw/frontends/test_onnx_quantised.py"],
    "sw/frontends/pt2_frontend.py": ["sw/frontends/test_pt2.py"],
    "sw/frontends/pt2_archive.py": ["sw/frontends/test_pt2.py"],
    "sw/frontends/pt2_child.py": ["sw/frontends/test_pt2.py"],
    "sw/compiler/rules.py": ["sw/runtime/test_run.py"],
    "sw/compiler/targets.py": ["sw/cli/test_models.py"],
    "sw/compiler/linking.py": ["sw/compiler/test_compile.py"],
    "sw/engines/tensorcore/lower.py": ["sw/compiler/test_compile.py"],
    "sw/frontends/torch_frontend.py": ["sw/frontends/test_torch.py"],
    "sw/formats/convert.py": ["sw/cli/test_convert.py"],
    "sw/engines/checks.py": ["sw/engines/eie/test_image.py",
                              "sw/engines/tensorcore/test_image.py"],
    "sw/quantize/calibration.py": ["sw/compiler/test_compile.py", "sw/cli/test_models.py"],
}
"""Tests of a file beside the one of its name, if that exists."""

LIBRARIES = ("pytest", "hypothesis", "numpy", "amaranth.sim", "scipy.sparse", "onnx.reference",
             "onnxruntime", "torch", "sklearn.cluster", "safetensors.numpy", "pyosys.libyosys")
"""Imported before the fork."""

SECONDS = 600
"""For the tests of one file on the unchanged sources."""

BROKEN = 99
"""Exit code where pytest gave none."""

HEAD = """\
# Mutation tests

`make mutate` draws small faults with a fixed seed ({seed}) and runs the tests of the changed file
on each: an operator replaced by a near one, a constant off by one, an assignment or a call removed,
a condition negated, the arms of a multiplexer or of two cases swapped, a bound of a slice off by
one. `tests/mutants.py` says what is left out, `tests/mutate.py` which tests belong to which file.

Of {count} mutants drawn in each half, the share is that of the killed in all but the equivalent
ones, which behave as the original does. One whose tests end with an error on import or by a
time-out is killed; a survivor that is explained is a survivor. Reasons are in `mutation.toml`.
"""


def files_of(part: str) -> list[str]:
    """The sources of one half, or of a folder or file of it, as paths below the root."""
    files = (path.relative_to(ROOT) for pattern in PARTS[part.split("/")[0]]
             for path in ROOT.glob(pattern))
    return sorted(str(path) for path in files if path.is_relative_to(part))


def tests_of(file: str) -> tuple[str, ...]:
    """The test files of a source file, as paths below the root."""
    path = Path(file)
    mirrored = Path("tests", path.parent, f"test_{path.name}")
    own = [str(mirrored)] if ROOT.joinpath(mirrored).exists() else []
    return (*own, *(f"tests/{name}" for name in TESTS.get(file, [])))


def key(mutant: Mutant) -> str:
    """What a result is good for: the mutated file, its tests and what these share."""
    tests = [ROOT / name for name in tests_of(mutant.file)]
    shared = sorted(ROOT.joinpath("tests").rglob("conftest.py"))
    content = [mutant.file.encode(), mutant.text, *(path.read_bytes() for path in tests + shared)]
    return hashlib.sha256(b"\0".join(content)).hexdigest()


# One process with a copy of the sources. -------------------------------------------------------

def prepare(folder: str) -> None:
    """Makes the copy, in a folder of this process below ``folder``, and imports the libraries."""
    work = Path(folder, str(os.getpid()))
    for name in ("hw", "sw", "sim", "fpga", "tests", "docs"):
        shutil.copytree(ROOT / name, work / "zeroskip" / name,
                        ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", work / "zeroskip")
    # Bytecode under the hash of its source: that of a mutant is neither taken nor kept.
    compileall.compile_dir(work, quiet=1,
                           invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    os.environ.update(PYTHONPATH=str(work), XDG_CACHE_HOME=str(work / "cache"),
                      PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    sys.path.insert(0, str(work))
    sys.dont_write_bytecode = True
    for name in LIBRARIES:
        importlib.import_module(name)
    os.chdir(work / "zeroskip")


def run_tests(tests: tuple[str, ...], limit: int) -> tuple[int | None, float, str]:
    """Runs tests on this process' copy until one fails.

    Returns
    -------
    exit code of pytest or None after a time-out, seconds of processor time, output
    """
    log = Path("../log")
    child = os.fork()
    if not child:
        _child(tests, limit, log)
    ends, status = time.monotonic() + 10 * limit, 0
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done or time.monotonic() > ends:
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)    # with the processes that it started
    if not done:
        _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    late = not done or code == -signal.SIGXCPU
    return None if late else code, usage.ru_utime + usage.ru_stime, log.read_text(errors="replace")


def _child(tests, limit, log):
    import hypothesis
    import pytest
    code = BROKEN
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        # The first failing example kills; the smallest is not asked for.
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutant", phases=phases, report_multiple_bugs=False)
        hypothesis.settings.load_profile("mutant")
        code = pytest.main(["-x", "--tb=line", "-rfE", "--assert=plain", "-p", "no:cacheprovider",
                            "--basetemp=../tmp", *tests])
    finally:
        sys.stdout.flush()
        os._exit(code)


def measure(tests: tuple[str, ...]) -> tuple[float, str]:
    """Seconds of the tests on the unchanged sources, and what was wrong."""
    code, seconds, output = run_tests(tests, SECONDS)
    return seconds, "" if code == 0 else f"{' '.join(tests)}: exit code {code}\n{output[-3000:]}"


def judge(task: tuple[Mutant, int]) -> dict:
    """The result of a mutant; the time-out is in seconds of processor time."""
    mutant, limit = task
    original = Path(mutant.file).read_bytes()
    Path(mutant.file).write_bytes(mutant.text)
    try:
        code, seconds, output = run_tests(tests_of(mutant.file), limit)
    finally:
        Path(mutant.file).write_bytes(original)
    if code == BROKEN and not re.search(r" in \d+\.\d+s", output):  # else it broke behind them
        raise RuntimeError(f"pytest did not run:\n{output}")
    names = {None: "timed out", 0: "survived", 2: "at import", 3: "at import", 4: "at import"}
    failed = re.search(r"^(?:FAILED|ERROR) (.*)", output, re.MULTILINE)
    return {"key": key(mutant), "verdict": names.get(code, "killed"),
            "seconds": round(seconds, 2), "by": failed[1][:200] if failed else f"exit {code}",
            **{name: getattr(mutant, name)
               for name in ("file", "line", "scope", "kind", "before", "after")}}


# The run and its report. -----------------------------------------------------------------------

def run(part: str, mutants: list[Mutant], jobs: int) -> list[dict]:
    """The results of mutants: those of an earlier run, and the others' now."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    store = RESULTS / f"{part.split('/')[0]}.jsonl"
    known = map(json.loads, store.read_text().splitlines()) if store.exists() else ()
    results = {each["key"]: each for each in known}
    todo = [mutant for mutant in mutants if key(mutant) not in results]
    if not todo:
        return [results[key(mutant)] for mutant in mutants]
    tests = sorted({tests_of(mutant.file) for mutant in todo})
    context = multiprocessing.get_context("fork")
    with (tempfile.TemporaryDirectory(prefix="mutate-") as folder, store.open("a") as out,
          context.Pool(jobs, prepare, (folder,)) as pool):
        clean = dict(zip(tests, pool.imap(measure, tests), strict=True))
        if faults := [fault for _, fault in clean.values() if fault]:
            raise SystemExit("the tests fail on the unchanged sources:\n" + "\n".join(faults))
        tasks = [(each, int(3 * clean[tests_of(each.file)][0]) + 5) for each in todo]
        for done, result in enumerate(pool.imap_unordered(judge, tasks), 1):
            results[result["key"]] = result
            print(json.dumps(result), file=out, flush=True)
            print("{}/{} {verdict:9} {seconds:6.1f} s {file}:{line}: {before}  ->  {after}".format(
                done, len(todo), **result), flush=True)
    return [results[key(mutant)] for mutant in mutants]


def reasons(kind: str) -> dict[tuple, str]:
    """The reasons in the notes: why a mutant is ``equivalent``, or is a ``survivor``."""
    notes = tomllib.loads(NOTES.read_text()) if NOTES.exists() else {}
    return {_name(each): each["reason"] for each in notes.get(kind, [])}


def _name(result: dict) -> tuple:
    return tuple(result[name] for name in ("file", "scope", "before", "after"))


def _table(title: str, results: list[dict], group, equivalent: dict) -> list[str]:
    columns = ("killed", "at import", "timed out", "equivalent", "survived")
    lines = [f"| {title} | drawn | {' | '.join(columns)} | share |", "|---" * 8 + "|"]
    groups = sorted({group(each) for each in results})
    for name in [*groups, "all"]:
        counts = Counter(
            "equivalent" if each["verdict"] == "survived" and _name(each) in equivalent
            else each["verdict"] for each in results if name in (group(each), "all"))
        judged = counts.total() - counts["equivalent"]
        share = f"{100 * (judged - counts['survived']) / judged:.1f} %" if judged else "-"
        cells = [name, counts.total(), *(counts[column] for column in columns), share]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def report(part: str, results: list[dict]) -> str:
    """Tables of one half, and lists of what survived."""
    equivalent, explained = reasons("equivalent"), reasons("survivor")
    lines = [f"## {part}", "",
             *_table("folder", results, lambda each: str(Path(each["file"]).parent), equivalent),
             *_table("kind", results, lambda each: each["kind"], equivalent)]
    left = sorted((each for each in results if each["verdict"] == "survived"),
                  key=lambda each: (each["file"], each["line"]))
    for title, wanted in (("Equivalent", True), ("Survivors", False)):
        lines += [f"### {title} in {part}", ""]
        for each in left:
            if (_name(each) in equivalent) == wanted:
                reason = {**explained, **equivalent}.get(_name(each), "not explained yet")
                lines.append("- `{file}:{line}` {kind}: `{before}` → `{after}`: ".format(**each)
                             + reason)
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation tests of the sources.")
    parser.add_argument("parts", nargs="*", default=list(PARTS), help="hw, sw, or a path in one")
    parser.add_argument("--count", type=int, default=400, help="mutants of each part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("-o", "--output", type=Path, help="the report, Markdown")
    args = parser.parse_args()
    texts = [HEAD.format(seed=args.seed, count=args.count)]
    for part in args.parts:
        mutants = sample(ROOT, files_of(part), args.count, args.seed)
        texts.append(report(part, run(part, mutants, args.jobs)))
        print(texts[-1])
    if args.output:
        args.output.write_text("\n".join(texts))


if __name__ == "__main__":
    main()
