"""Command ``eval``: how good a program is at its task, beside the float model."""

from collections.abc import Mapping
from glob import escape
from pathlib import Path

import numpy as np

from zeroskip.sw.cli.backend import chosen
from zeroskip.sw.cli.files import arrays, shapes
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.compiler.sensitivity import sensitivity as layer_by_layer
from zeroskip.sw.engines.base import Result
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.network import SMOOTHED
from zeroskip.sw.graph.samples import runs
from zeroskip.sw.runtime import backends, evaluate
from zeroskip.sw.runtime.arrays import inputs
from zeroskip.sw.runtime.evaluate import Judge, Task


def evaluate_program(path: Path, data: Path, name: str, model: Path | None,
                     given_shapes: list[str], samples: int, backend: str | None,
                     calibration: Path | None, sensitivity: bool, screen: Screen) -> None:
    """See ``zeroskip eval --help``."""
    task = evaluate.task(name)
    _check(samples, backend, model, calibration, sensitivity)
    program = Program.load(path)
    layers, values = reference.load(reference.beside(path)), evaluate.values(program)
    held, truth = _data(data, task)
    given = inputs(program, f"{data}: the array", held)
    if given.warning:
        screen.notice(f"zeroskip: warning: {given.warning}")
    judge = evaluate.judge(task, truth, given.samples, values)
    graph = model and _graph(model, shapes(given_shapes), values)
    prepared = graph and runs(graph, f"{data}: the array", held)
    rows, tables = [], {}
    if graph:
        outputs = evaluate.of_model(graph, model, prepared)[:given.samples]
        rows.append(_row(str(model), outputs, judge))
    with screen.progress("golden") as update:
        golden, _ = evaluate.of_program(program, backends.create("golden", program, lambda: layers),
                                        given, given.samples, update)
    rows.append(_row("golden", golden, judge))
    if samples:
        rows.append(_simulated(program, chosen(backend, screen), given, samples, golden, judge,
                               screen))
    if sensitivity:
        with screen.progress("sensitivity") as update:
            tables["sensitivity"] = layer_by_layer(
                graph, list(dict.fromkeys(image.config for image in program.images)),
                runs(graph, f"{calibration}: the array", arrays(calibration)), prepared,
                given.samples, judge, update,
                {escape(layer.name.removesuffix(SMOOTHED)): image.engine
                 for image in program.images for layer in image.layers})
    _show(f"{path} on {data}", rows, screen)
    if sensitivity:
        _show("each layer alone in integers, the worst first", tables["sensitivity"], screen)
    screen.result({"task": name, "samples": given.samples, "rows": rows, **tables})


def _check(samples: int, backend: str | None, model: Path | None, calibration: Path | None,
           sensitivity: bool) -> None:
    if samples < 0:
        raise BadInput(f"--samples must be 0 or more, not {samples}")
    if backend == "golden":
        raise BadInput("--backend names golden, which runs anyway; name a simulator, or give "
                       "--samples 0 for none")
    if sensitivity and not (model and calibration):
        raise BadInput("--sensitivity quantises the float model's layers one by one; give that "
                       "with --model, and samples for their scales with --calibration")
    if calibration and not sensitivity:
        raise BadInput("--calibration is for --sensitivity; leave it out, or give both")


def _data(path: Path, task: Task) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """The inputs in a file by name, and the truth."""
    found = arrays(path) if path.suffix == ".npz" else None
    if not isinstance(found, Mapping):
        raise BadInput(f"{path}: give an .npz file with an array for each input, and "
                       f"'{task.truth}'")
    if task.truth not in found:
        raise BadInput(f"{path} has no array '{task.truth}', which says what is right for each "
                       "sample; add it")
    held = {name: x for name, x in found.items() if name != task.truth}
    if not held:
        raise BadInput(f"{path} has only '{task.truth}'; add an array for each input")
    return held, found[task.truth]


def _graph(model: Path, given: dict[str, tuple[int, ...]], values: int) -> Graph:
    """The float model, which must have the program's output."""
    graph = frontend.read(model, given)
    sizes = [graph.types[name].size // graph.batch for name in graph.outputs]
    if sizes != [values]:
        raise BadInput(f"{model} has outputs of {sizes} values, but the program one of {values}; "
                       "give the model that the program was compiled from")
    return graph


def _simulated(program: Program, name: str, given, samples: int, golden: np.ndarray, judge: Judge,
               screen: Screen) -> dict:
    count = min(samples, given.samples)
    with screen.progress(name) as update:
        runner = backends.create(name, program, lambda: ())
        outputs, results = evaluate.of_program(program, runner, given, count, update)
    own = dict.fromkeys(judge(golden)) | judge(outputs)
    return {"backend": name, "samples": count, **own, "cycles": _cycles(results, count),
            "as_golden": bool(np.array_equal(outputs, golden[:count], equal_nan=True))}


def _row(name: str, outputs: np.ndarray, judge: Judge) -> dict:
    return {"backend": name, "samples": len(outputs), **judge(outputs), "cycles": None,
            "as_golden": None}


def _cycles(results: list[Result], samples: int) -> float | None:
    """A sample's on all engines; None where an image counts none."""
    counted = [result.statistics.cycles for result in results if result.statistics]
    return sum(counted) / samples if len(counted) == len(results) else None


def _show(title: str, rows: list[dict], screen: Screen) -> None:
    screen.table(title, [key.replace("_", " ") for key in rows[0]],
                 [list(row.values()) for row in rows])
