"""Command ``demo``: the main job, end to end, on handwritten digits."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from zeroskip.hw.eie.config import CONFIGS
from zeroskip.sim import engines
from zeroskip.sim.eie_host import EIEStatistics
from zeroskip.sim.engine import Engine
from zeroskip.sim.golden_engine import GoldenEngine
from zeroskip.sim.verify import Verdict, verify
from zeroskip.sw import digits
from zeroskip.sw.cli.engine import chosen
from zeroskip.sw.cli.report import write_report
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.compile import Compiled, compile_network, storage
from zeroskip.sw.compiler.frontend import to_onnx
from zeroskip.sw.parts.eie import EIEPart
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.recipe import Stage

CONFIG = "eie-4"


@dataclass(frozen=True)
class Run:
    """Everything the report tells of: stages of the network, the program, its run in RTL."""

    engine: str
    stages: list[Stage]
    test: Data
    compiled: Compiled
    verdict: Verdict
    inputs_saturated: int

    @property
    def part(self) -> EIEPart:
        """The program's only part."""
        return self.compiled.program.parts[0]

    @property
    def statistics(self) -> EIEStatistics:
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

    def dense_cycles(self) -> int:
        """Cycles per image of a machine with as many multipliers that skips nothing."""
        return sum(-(-layer.outputs // self.part.config.pes) * layer.inputs
                   for layer in self.part.layers)

    def as_json(self) -> dict:
        """The contents of ``report.json``."""
        statistics = self.statistics
        return {
            "bit_exact": self.verdict.difference is None,
            "models": [{
                "engine": "eie",
                "simulator": self.engine,
                "config": CONFIG,
                "pes": self.part.config.pes,
                "images": statistics.images,
                "outputs_compared": self.verdict.compared,
                "density": self.stages[-1].density,
                "accuracy": self.accuracy(),
                "bytes": storage(self.compiled.program),
                "cycles_per_image": statistics.cycles / statistics.images,
                "dense_cycles_per_image": self.dense_cycles(),
                "utilisation": statistics.utilisation,
                "inputs_saturated": self.inputs_saturated,
                "outputs_saturated": statistics.saturated,
                "statistics": statistics.as_json(),
            }],
        }


def demo(out: Path, engine: str | None, screen: Screen) -> None:
    """See ``zeroskip demo --help``."""
    rtl = engines.rtl(chosen(engine, screen))
    out.mkdir(parents=True, exist_ok=True)
    run = _run(rtl, screen)
    to_onnx(run.stages[-1].network, out / "digits.onnx")
    np.save(out / "digits.npy", run.test.x)
    run.compiled.save(out / "digits.zsk")
    report = run.as_json()
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    write_report(out / "report.html", run, report)
    _show(run, report, out, screen)
    screen.result(report)
    if not report["bit_exact"]:
        raise typer.Exit(1)


def _run(rtl: Engine, screen: Screen) -> Run:
    with screen.progress("training, pruning, sharing weights") as update:
        stages = digits.run(progress=update)
    train, test = digits.load()
    compiled = compile_network(stages[-1].network, train.x, CONFIGS[CONFIG])
    inputs, saturated = compiled.program.input.to_integer(test.x)
    golden = GoldenEngine(compiled.program, compiled.reference)
    with screen.progress(f"{len(inputs)} images through the RTL ({rtl.name})") as update:
        verdict = verify(compiled.program, inputs, (golden, rtl), update)
    return Run(rtl.name, stages, test, compiled, verdict, int(saturated))


def _show(run: Run, report: dict, out: Path, screen: Screen) -> None:
    model = report["models"][0]
    screen.table("accuracy on 360 test images", ["stage", "accuracy"], [
        [stage, f"{value:.1%}"] for stage, value in model["accuracy"].items()])
    screen.table("storage", ["part", "bytes"], [
        [part, size] for part, size in model["bytes"].items()])
    speedup = model["dense_cycles_per_image"] / model["cycles_per_image"]
    screen.text(
        f"{model['pes']} PEs: {model['cycles_per_image']:.0f} cycles an image, a dense machine "
        f"with as many multipliers {model['dense_cycles_per_image']:,}: {speedup:.1f} times "
        f"faster; utilisation {model['utilisation']:.1%}")
    screen.text(f"saturated: {model['inputs_saturated']} inputs, {model['outputs_saturated']} "
                "outputs")
    found = run.verdict.difference
    screen.text(f"bit-exact: {found or 'yes'}, {model['outputs_compared']:,} outputs of every "
                "layer compared with the integer reference")
    screen.text(f"report: {out / 'report.html'}; the program and its input: "
                f"{out / 'digits.zsk'}, {out / 'digits.npy'}")
