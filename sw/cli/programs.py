"""Commands on programs: ``run`` and ``verify``."""

from pathlib import Path

import numpy as np
import typer

from zeroskip.sim import engines as registry
from zeroskip.sw import reference
from zeroskip.sw.cli.files import check_writable, inputs
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.compile import REFERENCE
from zeroskip.sw.errors import BadInput
from zeroskip.sw.program import Program


def run(path: Path, input_path: Path, output: Path, engine: str | None, raw: bool,
        screen: Screen) -> None:
    """See ``zeroskip run --help``."""
    check_writable(output)
    program = Program.load(path)
    x, saturated = inputs(input_path, program, raw)
    name = engine or registry.default()
    with screen.progress(name) as update:
        result = _engine(name, path).run(program, x, update)
    y = result.outputs[-1]
    with output.open("wb") as file:
        np.save(file, y if raw else (y * program.layers[-1].output_scale).astype(np.float32))

    statistics = result.statistics
    facts = {"engine": name, "images": len(x), "inputs_saturated": int(saturated)}
    if statistics:
        facts |= {"outputs_saturated": int(statistics.pe["saturated"].sum()),
                  "cycles_per_image": statistics.cycles / len(x),
                  "utilisation": statistics.utilisation}
    screen.table(str(output), list(facts), [list(facts.values())])
    screen.result({**facts, "statistics": statistics.as_json() if statistics else None})


def verify(path: Path, input_path: Path, names: str | None, raw: bool, screen: Screen) -> None:
    """See ``zeroskip verify --help``."""
    from zeroskip.sim.verify import verify as compare

    if names is None:
        names = f"golden,{registry.default()}"
    pair = [name.strip() for name in names.split(",")]
    if len(pair) != 2:
        raise BadInput(f"--engines takes two names with a comma between, not '{names}'")
    program = Program.load(path)
    x, saturated = inputs(input_path, program, raw)
    with screen.progress("verify") as update:
        verdict = compare(program, x, (_engine(pair[0], path), _engine(pair[1], path)), update)
    found = verdict.difference
    screen.text(f"{names}: {found}" if found else
                f"{names}: {verdict.compared:,} outputs of {len(program.layers)} layers and "
                f"{len(x)} images are equal")
    if saturated:
        screen.text(f"{saturated} of {x.size} inputs were saturated to 16 bits")
    screen.result({"equal": found is None, "compared": verdict.compared,
                   "inputs_saturated": int(saturated),
                   "difference": vars(found) if found else None})
    if found:
        raise typer.Exit(1)


def _engine(name: str, path: Path):
    return registry.create(name, lambda: reference.load(path.with_name(REFERENCE)))
