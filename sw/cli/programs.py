"""Commands on programs: ``run`` and ``verify``."""

from pathlib import Path

import numpy as np
import typer

from zeroskip.sim import board_engine
from zeroskip.sim import engines as registry
from zeroskip.sim.engine import Engine, Result
from zeroskip.sim.golden_engine import GoldenEngine
from zeroskip.sw import reference
from zeroskip.sw.cli.engine import chosen
from zeroskip.sw.cli.files import array, check_writable, inputs
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.compile import REFERENCE
from zeroskip.sw.errors import BadInput
from zeroskip.sw.program import Program


def run(path: Path, input_path: Path, output: Path, engine: str | None, device: str | None,
        raw: bool, screen: Screen) -> None:
    """See ``zeroskip run --help``."""
    from zeroskip.fpga.boards import machines
    from zeroskip.sim.chain import run_program

    check_writable(output)
    program = Program.load(path)
    x, saturated = inputs(input_path, program, raw)
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
    with output.open("wb") as file:
        np.save(file, y if as_integers else program.output.to_float(y).astype(np.float32))

    facts = {"engine": name, "images": len(x), "inputs_saturated": int(saturated),
             **_figures(results, len(x))}
    screen.table(str(output), list(facts), [list(facts.values())])
    counted = [result.statistics and result.statistics.as_json() for result in results]
    screen.result({**facts, "statistics": counted if len(counted) > 1 else counted[0]})


def _figures(results: list[Result], images: int) -> dict:
    """The sums over all parts; of a split program, also what saturated between them."""
    figures = {}
    if len(results) > 1:
        figures["conversions_saturated"] = sum(result.inputs_saturated for result in results)
    figures["outputs_saturated"] = sum(result.saturated for result in results)
    statistics = [result.statistics for result in results if result.statistics]
    if statistics:
        cycles = sum(each.cycles for each in statistics)
        figures |= {
            "cycles_per_image": cycles / images,
            # Each part's share of its own multipliers, weighed by the time that it takes.
            "utilisation": sum(each.utilisation * (each.cycles / max(1, cycles))
                               for each in statistics)}
    return figures


def verify(path: Path, input_path: Path, names: str | None, model: Path | None, raw: bool,
           screen: Screen) -> None:
    """See ``zeroskip verify --help``."""
    from zeroskip.sim.float_model import FloatModel
    from zeroskip.sim.verify import verify as compare

    if names is None:
        names = f"golden,{chosen(None, screen)}"
    pair = [name.strip() for name in names.split(",")]
    if len(pair) != 2:
        raise BadInput(f"--engines takes two names with a comma between, not '{names}'")
    if pair[0] == pair[1]:
        raise BadInput(f"--engines names {pair[0]} twice, and an engine always agrees with "
                       "itself; name two different ones, such as golden,cxxrtl")
    program = Program.load(path)
    x, saturated = inputs(input_path, program, raw)
    third = model and FloatModel(model, GoldenEngine(program, _reference(path)).layers)
    with screen.progress("verify") as update:
        verdict = compare(program, x, tuple(_engine(name, program, path) for name in pair), update)
        opinion = third and third.compare(x, None if raw else _given(input_path, program))
    found = verdict.difference
    counts = {name: sum(result.saturated for result in results)
              for name, results in zip(pair, verdict.results, strict=True)}
    screen.text(f"{names}: {found}" if found else
                f"{names}: {verdict.compared:,} outputs of {len(program.layers)} layers and "
                f"{len(x)} images are equal")
    if opinion:
        _show(opinion, model, len(x), screen)
    if saturated:
        screen.text(f"{saturated} of {x.size} inputs were saturated to {8 * x.itemsize} bits")
    if any(counts.values()):
        screen.text("outputs saturated: "
                    + ", ".join(f"{count:,} on {name}" for name, count in counts.items()))
    screen.result({"engines": pair, "equal": found is None, "compared": verdict.compared,
                   "inputs_saturated": int(saturated), "outputs_saturated": counts,
                   "difference": vars(found) if found else None,
                   "model": opinion and _as_json(opinion)})
    if found or (opinion and opinion.disagreement):
        raise typer.Exit(1)


def _given(path: Path, program: Program) -> np.ndarray:
    """The inputs of a file as the model takes them, [batch, in]."""
    values = array(path)
    if program.input_dtype == "float32":
        values = values.astype(np.float64)
    return values.reshape(len(values), -1)


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


def _engine(name: str, program: Program, path: Path) -> Engine:
    return registry.create(name, program, lambda: _reference(path))


def _reference(path: Path) -> tuple[reference.Layer, ...]:
    return reference.load(path.with_name(REFERENCE))
