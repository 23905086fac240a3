"""Command ``demo``: the main job, end to end, on handwritten digits, on both engines."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from zeroskip.sw.cli import report
from zeroskip.sw.cli.backend import chosen
from zeroskip.sw.cli.files import make_folder
from zeroskip.sw.cli.report import comparison, write_report
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.compile import Compiled, compile_network, storage
from zeroskip.sw.compiler.targets import targets
from zeroskip.sw.engines.base import Image
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.experiments import digits
from zeroskip.sw.files import save_array, write
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.pipeline import Stage
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.verify import Verdict, verify


@dataclass(frozen=True)
class Run:
    """One network on one engine: itself, its stages, the program, its run in RTL.

    ``dense_cycles`` are those of an image where no zero is skipped: on the tensor core measured
    in dense mode; for the EIE array the least that as many multipliers need. ``section`` says of a
    run what only its engine has to tell; see :func:`zeroskip.sw.cli.report.eie`.
    """

    target: str
    simulator: str
    module: Any
    stages: list[Stage]
    test: Data
    compiled: Compiled
    verdict: Verdict
    inputs_saturated: int
    dense_cycles: float
    section: Callable

    @property
    def image(self) -> Image:
        """The program's only image."""
        return self.compiled.program.images[0]

    @property
    def statistics(self):
        """Where the cycles of the RTL went."""
        return self.verdict.results[1][0].statistics

    def accuracy(self) -> dict[str, float]:
        """Share of the test images classified correctly, stage by stage; ``quantised`` by the
        integer reference, ``rtl`` by the outputs of the gateware."""
        golden, rtl = (results[-1].outputs[-1] for results in self.verdict.results)
        return {**{stage.name: stage.accuracy for stage in self.stages},
                "quantised": self._correct(golden), "rtl": self._correct(rtl)}

    def _correct(self, outputs: np.ndarray) -> float:
        return float(np.mean(outputs.argmax(axis=1) == self.test.y))

    def as_json(self) -> dict:
        """The model's entry in ``report.json``."""
        statistics = self.statistics
        return {
            "engine": self.image.engine,
            "simulator": self.simulator,
            "config": self.target,
            "multipliers": statistics.multipliers,
            "images": statistics.images,
            "exact": self.verdict.difference is None,
            "outputs_compared": self.verdict.compared,
            "density": self.stages[-1].density,
            "accuracy": self.accuracy(),
            "bytes": storage(self.compiled.program),
            "cycles_per_image": statistics.cycles / statistics.images,
            "dense_cycles_per_image": self.dense_cycles,
            "speedup": self.dense_cycles * statistics.images / statistics.cycles,
            "utilisation": statistics.utilisation,
            "inputs_saturated": self.inputs_saturated,
            "outputs_saturated": statistics.saturated,
            "statistics": statistics.as_json(),
        }


def demo(out: Path, backend: str | None, screen: Screen) -> None:
    """See ``zeroskip demo --help``."""
    rtl = backends.rtl(chosen(backend, screen))
    make_folder(out)
    runs = [_run("eie-4", digits.run_linear, _dense_eie, report.eie, rtl, screen),
            _run("tc-64", digits.run_convolutional, _dense_core, report.tensorcore, rtl, screen)]
    save_array(out / "digits.npy", runs[0].test.x)
    for run in runs:
        folder = out / run.image.engine
        folder.mkdir(exist_ok=True)
        write(folder / "digits.onnx", digits.to_onnx(run.module))
        run.compiled.save(folder / "digits.zsk")
    models = [run.as_json() for run in runs]
    told = {"bit_exact": all(model["exact"] for model in models), "models": models}
    write(out / "report.json", json.dumps(told, indent=2) + "\n")
    write_report(out / "report.html", runs, models)
    _show(runs, models, out, screen)
    screen.result(told)
    if not told["bit_exact"]:
        raise typer.Exit(1)


def _run(target: str, train: Callable, dense: Callable, section: Callable, rtl: Backend,
         screen: Screen) -> Run:
    """Trains a network, compiles it for the configuration ``target``, and runs the test images
    through its RTL."""
    with screen.progress(f"training and pruning for {target}") as update:
        module, stages = train(progress=update)
    data, test = digits.load()
    compiled = compile_network(digits.graph(module), data.x, *targets(None, [target]),
                               batch=len(test.x))
    inputs, saturated = compiled.program.input.to_integer(test.x)
    golden = GoldenBackend(compiled.program, compiled.reference)
    with screen.progress(f"{len(inputs)} images through the RTL ({rtl.name})") as update:
        verdict = verify(compiled.program, inputs, (golden, rtl), update)
        cycles = dense(compiled, inputs, rtl)
    return Run(target, rtl.name, module, stages, test, compiled, verdict, int(saturated), cycles,
               section)


def _dense_eie(compiled: Compiled, _inputs: np.ndarray, _rtl: Backend) -> float:
    """Cycles per image of an array with as many multipliers that skips nothing."""
    image = compiled.program.images[0]
    return sum(-(-layer.outputs // image.config.pes) * layer.inputs for layer in image.layers)


def _dense_core(compiled: Compiled, inputs: np.ndarray, rtl: Backend) -> float:
    """Cycles per image of the same network in the core's dense mode."""
    image = TensorCoreImage.packed(
        compiled.program.images[0].config, *((layer, "dense") for layer in compiled.reference),
        batch=len(inputs))
    return rtl.run(image, inputs).statistics.cycles / len(inputs)


def _show(runs: list[Run], models: list[dict], out: Path, screen: Screen) -> None:
    head, rows = comparison(models)
    rows.append(["bit-exact", *(str(run.verdict.difference or "yes") for run in runs)])
    screen.table(f"{models[0]['images']} test images through the RTL", head, rows)
    screen.text(f"report: {out / 'report.html'}; the programs and their input: "
                + ", ".join(str(out / run.image.engine / "digits.zsk") for run in runs)
                + f", {out / 'digits.npy'}")
