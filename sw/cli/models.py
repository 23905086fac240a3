"""Commands on models: ``inspect``, ``prune``, ``compile``."""

from dataclasses import asdict
from pathlib import Path

from zeroskip.sw.cli.files import array, check_writable, configuration
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler import frontend
from zeroskip.sw.errors import BadInput


def inspect(model: Path, screen: Screen) -> None:
    """See ``zeroskip inspect --help``."""
    rows = frontend.inspect(model)
    columns = ["name", "kind", "shape", "density", "pattern", "engine", "reason"]
    screen.table(str(model), columns, [
        ["-" if row[column] is None else row[column] for column in columns] for row in rows])
    screen.result({"layers": rows})


def prune(model: Path, recipe: Path, out: Path, screen: Screen) -> None:
    """See ``zeroskip prune --help``."""
    from zeroskip.sw.prune.recipe import read_recipe, run_recipe

    if out.suffix != ".onnx":
        raise BadInput(f"{out}: a pruned model is written as ONNX; give a name that ends in .onnx")
    check_writable(out)
    network, steps = frontend.read(model), read_recipe(recipe)
    with screen.progress("pruning") as update:
        pruned, stages = run_recipe(network, steps, update)
    frontend.to_onnx(pruned, out)

    before, after = frontend.inspect(network), frontend.inspect(pruned)
    screen.table(f"{model} -> {out}", ["layer", "shape", "density before", "density after"], [
        [a["name"], a["shape"], a["density"], b["density"]]
        for a, b in zip(before, after, strict=True)])
    screen.table("stages", ["stage", "density", "accuracy on the recipe's data"], [
        [stage.name, stage.density, "-" if stage.accuracy is None else stage.accuracy]
        for stage in stages])
    screen.result({"before": before, "after": after, "stages": [
        {"name": stage.name, "density": stage.density, "accuracy": stage.accuracy}
        for stage in stages]})


def compile_model(model: Path, calibration: Path, out: Path, target: str, screen: Screen) -> None:
    """See ``zeroskip compile --help``."""
    from zeroskip.sw.compiler.compile import REFERENCE, compile_network, storage

    check_writable(out)
    if out.name == REFERENCE:
        raise BadInput(f"{out}: the integer reference takes this name; give another")
    check_writable(out.with_name(REFERENCE))
    compiled = compile_network(frontend.read(model), array(calibration), configuration(target))
    compiled.save(out)

    rows = [{**asdict(info), **asdict(report)} for info, report in
            zip(compiled.program.layers, compiled.report, strict=True)]
    screen.table(f"{out} for {target}", [
        "layer", "in", "out", "weights", "entries", "padding", "codebook error (RMS)",
        "weights lost", "accumulator used", "shift"], [
        [row["name"], row["inputs"], row["outputs"], row["nonzeros"], row["entries"],
         row["padding"], row["rms"], row["vanished"], row["bound"], row["shift"]]
        for row in rows])
    sizes = storage(compiled.program)
    screen.table("storage, bytes", list(sizes), [list(sizes.values())])
    screen.result({"target": target, "layers": rows, "bytes": sizes})
