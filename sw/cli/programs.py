"""Commands on programs: ``run``, ``verify`` and ``export-c``."""

from pathlib import Path

import numpy as np
import typer

from zeroskip.sw.cli.backend import chosen
from zeroskip.sw.cli.files import check_writable, far_outside, integers, samples
from zeroskip.sw.cli.screen import Screen, text
from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.base import ReferenceLayer, Result
from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import save_array, write
from zeroskip.sw.runtime import backends, board_backend
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.golden_backend import GoldenBackend

COUNTED = ("cycles_per_image", "utilisation")
"""What only counters tell; None of a program with an image on a configuration that has none."""


def run(path: Path, input_path: Path, output: Path, backend: str | None, device: str | None,
        raw: bool, screen: Screen) -> None:
    """See ``zeroskip run --help``."""
    from zeroskip.fpga.boards import systems
    from zeroskip.sw.runtime.run import run_program

    if output.suffix != ".npy":
        raise BadInput(f"{output}: outputs are written as numpy.save does; give a name that ends "
                       "in .npy")
    check_writable(output)
    if backend and device:
        raise BadInput("--backend and --device both say what runs the program; leave one out")
    program = Program.load(path)
    _, x, given = _inputs(input_path, program, raw, screen)
    name = "virtual" if device == "virtual" else device or chosen(backend, screen)
    with screen.progress(name) as update:
        runner = (board_backend.serial(program, device, systems())
                  if device not in (None, "virtual")
                  else _backend(name, program, path))
        done = run_program(program, runner, x, update)
    results, y = done.results, done.output
    # Sums of 32 bits are what the model itself gives; float32 would round them.
    as_integers = raw or program.output.dtype == np.int32
    y = y if as_integers else program.output.to_float(y).astype(np.float32)
    save_array(output, y.reshape(len(y), *program.output.shape))

    limits = given.pop("input_range")
    facts = {"backend": name, "images": len(x), **given, **_figures(results, len(x))}
    if name != "golden" and not all(image.counted for image in program.images):
        facts |= dict.fromkeys(COUNTED)
    screen.table(str(output), list(facts), [list(facts.values())])
    counted = [result.statistics and result.statistics.as_json() for result in results]
    screen.result({**facts, "input_range": limits,
                   "statistics": counted if len(counted) > 1 else counted[0]})


def export_c(path: Path, output: Path, screen: Screen) -> None:
    """See ``zeroskip export-c --help``."""
    from zeroskip.sw.runtime.export_c import c_header

    if output.suffix != ".h":
        raise BadInput(f"{output}: a program is written as a C header; give a name that ends in .h")
    check_writable(output)
    header = c_header(Program.load(path), output.stem)
    write(output, header)
    facts = {"image": output.stem, "bytes": len(header)}
    screen.table(str(output), list(facts), [list(facts.values())])
    screen.result(facts)


def _inputs(path: Path, program: Program, raw: bool,
            screen: Screen) -> tuple[np.ndarray, np.ndarray, dict]:
    """The samples in a file, the integers of ``program`` that they become, and what is to be said
    of that; a warning where they lie far outside the calibrated range."""
    values = samples(path, program)
    x, saturated = integers(path, values, program, raw)
    far, (low, high) = far_outside(values, program, raw)
    if far:
        screen.notice(f"zeroskip: warning: {far} of {x.size} inputs lie far outside {low:.4g} to "
                      f"{high:.4g}, the range that the program takes, and are cut to it; scale "
                      "them as the model expects, or calibrate it with inputs like these")
    return values, x, {"inputs_saturated": int(saturated), "inputs_far_outside": far,
                       "input_range": [low, high]}


def _figures(results: list[Result], images: int) -> dict:
    """The sums over all images; of a split program, also what saturated between them."""
    figures = {}
    if len(results) > 1:
        figures["conversions_saturated"] = sum(result.inputs_saturated for result in results)
    figures["outputs_saturated"] = _saturated(results)
    statistics = [result.statistics for result in results if result.statistics]
    if statistics:
        cycles = sum(each.cycles for each in statistics)
        figures |= {
            "cycles_per_image": cycles / images,
            # Each image's share of its own multipliers, weighed by the time that it takes.
            "utilisation": sum(each.utilisation * (each.cycles / max(1, cycles))
                               for each in statistics)}
    return figures


def _saturated(results: list[Result]) -> int | None:
    """Outputs that had to be saturated; None where an image does not count them."""
    counts = [result.saturated for result in results]
    return None if None in counts else sum(counts)


def verify(path: Path, input_path: Path, names: str | None, model: Path | None, raw: bool,
           screen: Screen) -> None:
    """See ``zeroskip verify --help``."""
    from zeroskip.sw.runtime.float_model import FloatModel
    from zeroskip.sw.runtime.verify import verify as compare

    if names is None:
        names = f"golden,{chosen(None, screen)}"
    pair = [name.strip() for name in names.split(",")]
    if len(pair) != 2:
        raise BadInput(f"--backend takes two names with a comma between, not '{names}'")
    if pair[0] == pair[1]:
        raise BadInput(f"--backend names {pair[0]} twice, and a backend always agrees with "
                       "itself; name two different ones, such as golden,cxxrtl")
    program = Program.load(path)
    values, x, given = _inputs(input_path, program, raw, screen)
    third = model and FloatModel(model, GoldenBackend(program, _reference(path)).layers)
    with screen.progress("verify") as update:
        verdict = compare(program, x, tuple(_backend(name, program, path) for name in pair), update)
        opinion = third and third.compare(x, None if raw else values)
    found = verdict.difference
    counts = dict(zip(pair, map(_saturated, verdict.results), strict=True))
    screen.text(f"{names}: {found}" if found else
                f"{names}: {verdict.compared:,} outputs of {len(program.layers)} layers and "
                f"{len(x)} images are equal")
    if opinion:
        _show(opinion, model, len(x), screen)
    if given["inputs_saturated"]:
        screen.text(f"{given['inputs_saturated']} of {x.size} inputs were saturated to "
                    f"{8 * x.itemsize} bits")
    if any(counts.values()):
        screen.text("outputs saturated: "
                    + ", ".join(f"{text(count)} on {name}" for name, count in counts.items()))
    screen.result({"backends": pair, "equal": found is None, "compared": verdict.compared,
                   **given, "outputs_saturated": counts,
                   "difference": vars(found) if found else None,
                   "model": opinion and _as_json(opinion)})
    if found or (opinion and opinion.disagreement):
        raise typer.Exit(1)


def _as_json(opinion) -> dict:
    found = opinion.disagreement
    return {"layers": [vars(layer) for layer in opinion.layers],
            "disagreement": vars(found) if found else None}


def _show(opinion, model: Path, images: int, screen: Screen) -> None:
    """The third opinion, for people."""
    if opinion.disagreement:
        screen.text(f"golden,{model}: {opinion.disagreement}")
    else:
        outputs = sum(layer.outputs for layer in opinion.layers)
        screen.text(f"golden,{model}: {outputs:,} outputs of {len(opinion.layers)} layers and "
                    f"{images} images are as near as the integers allow")
    screen.table("each layer of the float model on golden's inputs",
                 ["layer", "outputs", "greatest share of the bound", "outside the integers' range"],
                 [list(vars(layer).values()) for layer in opinion.layers])


def _backend(name: str, program: Program, path: Path) -> Backend:
    return backends.create(name, program, lambda: _reference(path))


def _reference(path: Path) -> tuple[ReferenceLayer, ...]:
    return reference.load(reference.beside(path))
