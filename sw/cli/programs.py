"""Commands on programs: ``run``, ``verify`` and ``export-c``."""

from pathlib import Path

import typer

from zeroskip.sw.cli.backend import chosen
from zeroskip.sw.cli.files import arrays, check_writable, shapes
from zeroskip.sw.cli.forecast import Forecast
from zeroskip.sw.cli.screen import Screen, text
from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.base import ReferenceLayer, Result
from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import save_array, save_arrays, write
from zeroskip.sw.runtime import backends, board_backend
from zeroskip.sw.runtime.arrays import Inputs, inputs, outputs
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.facts import steps
from zeroskip.sw.runtime.golden_backend import GoldenBackend

COUNTED = ("cycles_per_image", "utilisation")
"""What only counters tell; None of a program with an image on a configuration that has none."""


def run(path: Path, input_path: Path, output: Path, backend: str | None, device: str | None,
        report: Path | None, model: Path | None, given_shapes: list[str], raw: bool,
        screen: Screen) -> None:
    """See ``zeroskip run --help``."""
    from zeroskip.fpga.boards import systems
    from zeroskip.sw.runtime.float_model import FloatModel
    from zeroskip.sw.runtime.run import run_program

    if output.suffix not in (".npy", ".npz"):
        raise BadInput(f"{output}: outputs are written as numpy.save does; give a name that ends "
                       "in .npy")
    check_writable(output)
    _check_report(report, model)
    if backend and device:
        raise BadInput("--backend and --device both say what runs the program; leave one out")
    program = Program.load(path)
    if len(program.outputs) > 1 and output.suffix == ".npy":
        raise BadInput(f"{output}: the model has the outputs "
                       f"{', '.join(port.name for port in program.outputs)}; give a name that ends "
                       "in .npz, for an array of each")
    given = _inputs(input_path, program, raw, screen)
    golden = model and GoldenBackend(program, _reference(path))
    third = golden and FloatModel(model, program, golden.layers, shapes(given_shapes))
    name = "virtual" if device == "virtual" else device or chosen(backend, screen)
    with screen.progress(name) as update:
        runner = (board_backend.serial(program, device, systems())
                  if device not in (None, "virtual")
                  else _backend(name, program, path))
        done = run_program(program, runner, given.buffers, Forecast(update, screen))
        opinion = third and third.compare(run_program(program.traced(), golden, given.buffers),
                                          None if raw else given.real)
    results, found = done.results, outputs(program, done.buffers, given.samples, raw)
    if output.suffix == ".npz":
        save_arrays(output, found)
    else:
        save_array(output, *found.values())

    facts = {"backend": name, "images": given.samples, **_facts(given),
             **_figures(results, given.samples)}
    if name != "golden" and not all(image.counted for image in program.images):
        facts |= dict.fromkeys(COUNTED)
    if report:
        from zeroskip.sw.cli.report import write_run
        errors = [layer.error for layer in opinion.layers] if opinion else ()
        write_run(report, f"{path.name} on {name}", program,
                  steps(program, results, errors), facts)
    screen.table(str(output), list(facts), [list(facts.values())])
    counted = [result.statistics and result.statistics.as_json() for result in results]
    screen.result({**facts, "input_range": given.range,
                   "statistics": counted if len(counted) > 1 else counted[0]})


def _check_report(report: Path | None, model: Path | None) -> None:
    if report is None:
        if model is not None:
            raise BadInput("--model is the float model that a report compares with; add --report "
                           "page.html, or leave it out")
        return
    if report.suffix != ".html":
        raise BadInput(f"{report}: a report is a page; give a name that ends in .html")
    check_writable(report)


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


def _inputs(path: Path, program: Program, raw: bool, screen: Screen) -> Inputs:
    """The samples in a file as a program takes them; a warning where they lie far outside the
    calibrated range."""
    given = inputs(program, f"{path}: the array", arrays(path), raw)
    if given.warning:
        screen.notice(f"zeroskip: warning: {given.warning}")
    return given


def _facts(given: Inputs) -> dict:
    """What is to be said of inputs."""
    return {"inputs_saturated": given.saturated, "inputs_far_outside": given.outside}


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


def verify(path: Path, input_path: Path, names: str | None, model: Path | None,
           given_shapes: list[str], raw: bool, screen: Screen) -> None:
    """See ``zeroskip verify --help``."""
    from zeroskip.sw.runtime.float_model import FloatModel
    from zeroskip.sw.runtime.run import run_program
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
    given = _inputs(input_path, program, raw, screen)
    golden = model and GoldenBackend(program, _reference(path))
    third = golden and FloatModel(model, program, golden.layers, shapes(given_shapes))
    with screen.progress("verify") as update:
        runners = tuple(_backend(name, program, path) for name in pair)
        verdict = compare(program, given.buffers, runners, Forecast(update, screen))
        opinion = third and third.compare(run_program(program.traced(), golden, given.buffers),
                                          None if raw else given.real)
    found = verdict.difference
    counts = dict(zip(pair, map(_saturated, verdict.results), strict=True))
    screen.text(f"{names}: {found}" if found else
                f"{names}: {verdict.compared:,} outputs of {len(program.layers)} layers and "
                f"{given.samples} images are equal")
    if opinion:
        _show(opinion, model, given.samples, screen)
    if given.saturated:
        bits = 8 * program.input.dtype.itemsize
        screen.text(f"{given.saturated} of {given.size} inputs were saturated to {bits} bits")
    if any(counts.values()):
        screen.text("outputs saturated: "
                    + ", ".join(f"{text(count)} on {name}" for name, count in counts.items()))
    screen.result({"backends": pair, "equal": found is None, "compared": verdict.compared,
                   **_facts(given), "input_range": given.range, "outputs_saturated": counts,
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
                 ["layer", "outputs", "greatest share of the bound", "worst difference",
                  "outside the integers' range", "cleaned first"],
                 [list(vars(layer).values()) for layer in opinion.layers])


def _backend(name: str, program: Program, path: Path) -> Backend:
    return backends.create(name, program, lambda: _reference(path))


def _reference(path: Path) -> tuple[ReferenceLayer, ...]:
    return reference.load(reference.beside(path))
