"""Commands on programs: ``run`` and ``verify``."""

from pathlib import Path

import numpy as np
import typer

from zeroskip.sim import board_engine
from zeroskip.sim import engines as registry
from zeroskip.sim.engine import Engine, Result
from zeroskip.sw import reference
from zeroskip.sw.cli.engine import chosen
from zeroskip.sw.cli.files import check_writable, far_outside, inputs, integers, samples
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import save_array
from zeroskip.sw.parts.eie import EIEPart
from zeroskip.sw.program import Part, Program

COUNTED = ("outputs_saturated", "cycles_per_image", "utilisation")
"""What only counters tell; None of a program with a part on a configuration that has none."""


def run(path: Path, input_path: Path, output: Path, engine: str | None, device: str | None,
        raw: bool, screen: Screen) -> None:
    """See ``zeroskip run --help``."""
    from zeroskip.fpga.boards import machines
    from zeroskip.sim.chain import run_program

    if output.suffix != ".npy":
        raise BadInput(f"{output}: outputs are written as numpy.save does; give a name that ends "
                       "in .npy")
    check_writable(output)
    program = Program.load(path)
    values = samples(input_path, program)
    x, saturated = integers(input_path, values, program, raw)
    far, limits = far_outside(values, program, raw)
    if engine and device:
        raise BadInput("--engine and --device both say what runs the program; leave one out")
    name = "virtual" if device == "virtual" else device or chosen(engine, screen)
    with screen.progress(name) as update:
        runner = (board_engine.serial(program, device, machines())
                  if device not in (None, "virtual")
                  else _engine(name, program, path))
        results = run_program(program, runner, x, update)
    y = results[-1].outputs[-1]
    # Sums of 32 bits are what the model itself gives; float32 would round them.
    as_integers = raw or program.output.dtype == np.int32
    y = y if as_integers else program.output.to_float(y).astype(np.float32)
    save_array(output, y.reshape(len(y), *program.output_shape or (-1,)))

    facts = {"engine": name, "images": len(x), "inputs_saturated": int(saturated),
             "inputs_far_outside": far, **_figures(results, len(x))}
    if name != "golden" and not all(map(_counts, program.parts)):
        facts |= dict.fromkeys(COUNTED)
    if far:
        low, high = limits
        screen.notice(f"zeroskip: warning: {far} of {x.size} inputs lie far outside {low:.4g} to "
                      f"{high:.4g}, the range of the calibration, and were cut to it; scale them "
                      "as those were, or compile the model again with inputs like these")
    screen.table(str(output), list(facts), [list(facts.values())])
    counted = [result.statistics and result.statistics.as_json() for result in results]
    screen.result({**facts, "input_range": limits,
                   "statistics": counted if len(counted) > 1 else counted[0]})


def _counts(part: Part) -> bool:
    """Whether the configuration of a part has counters; a tensor core's always does."""
    return not isinstance(part, EIEPart) or part.config.counters


def _figures(results: list[Result], images: int) -> dict:
    """The sums over all parts; of a split program, also what saturated between them."""
    figures = {}
    if len(results) > 1:
        figures["conversions_saturated"] = sum(result.inputs_saturated for result in results)
    statistics = [result.statistics for result in results if result.statistics]
    if statistics:
        cycles = sum(each.cycles for each in statistics)
        figures |= {
            "outputs_saturated": sum(each.saturated for each in statistics),
            "cycles_per_image": cycles / images,
            # Each part's share of its own multipliers, weighed by the time that it takes.
            "utilisation": sum(each.utilisation * (each.cycles / max(1, cycles))
                               for each in statistics)}
    return figures


def verify(path: Path, input_path: Path, names: str | None, raw: bool, screen: Screen) -> None:
    """See ``zeroskip verify --help``."""
    from zeroskip.sim.verify import verify as compare

    if names is None:
        names = f"golden,{chosen(None, screen)}"
    pair = [name.strip() for name in names.split(",")]
    if len(pair) != 2:
        raise BadInput(f"--engines takes two names with a comma between, not '{names}'")
    program = Program.load(path)
    x, saturated = inputs(input_path, program, raw)
    with screen.progress("verify") as update:
        verdict = compare(program, x, tuple(_engine(name, program, path) for name in pair), update)
    found = verdict.difference
    screen.text(f"{names}: {found}" if found else
                f"{names}: {verdict.compared:,} outputs of {len(program.layers)} layers and "
                f"{len(x)} images are equal")
    if saturated:
        screen.text(f"{saturated} of {x.size} inputs were saturated to {8 * x.itemsize} bits")
    screen.result({"equal": found is None, "compared": verdict.compared,
                   "inputs_saturated": int(saturated),
                   "difference": vars(found) if found else None})
    if found:
        raise typer.Exit(1)


def _engine(name: str, program: Program, path: Path) -> Engine:
    return registry.create(name, program, lambda: reference.load(reference.beside(path)))
