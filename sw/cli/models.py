"""Commands on models: ``prune``, ``compile``."""

from pathlib import Path

import typer

from zeroskip.sw.cli.files import arrays, check_writable, shapes
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler import placement, reference
from zeroskip.sw.compiler.targets import name_of
from zeroskip.sw.engines import registry
from zeroskip.sw.frontends import load as frontend


def prune(model: Path, recipe: Path, data: Path | None, loss: str | None, out: Path | None,
          screen: Screen) -> None:
    """See ``zeroskip prune --help``; without ``out`` a dry run."""
    frontend.require_torch()
    from zeroskip.sw.prune import losses, pipeline
    from zeroskip.sw.prune import model as models
    from zeroskip.sw.prune.recipe import read_recipe

    if out is not None:
        pipeline.check_name(out, model)
        check_writable(out)
    given, steps = models.read(model), read_recipe(recipe, data=data, loss=loss)
    samples = steps.samples(recipe.parent)
    start = None if steps.rewind is None else models.read(recipe.parent / steps.rewind)
    if out is None:
        if samples is not None:
            given.prepared(samples, losses.named(steps.loss))
        if start is not None:
            pipeline.check_start(start, given)
        _dry_run(model, pipeline.plan(given, steps), screen)
        return
    before = _layers(model)
    with screen.progress("pruning") as update:
        pruned, stages = pipeline.prune(given, steps, samples, start=start, progress=update)
    pipeline.save(pruned, steps, stages, out)

    after = _layers(out)
    screen.table(f"{model} -> {out}", ["layer", "shape before", "shape after", "density before",
                                           "density after"], [
        [a["name"], a["shape"], b["shape"], a["density"], b["density"]]
        for a, b in zip(before, after, strict=True)])
    metric = "loss" if stages[-1].loss is not None else "accuracy"
    screen.table("stages", ["stage", "density", f"{metric} on the recipe's data"], [
        [stage.name, stage.density, getattr(stage, metric)] for stage in stages])
    screen.result({"before": before, "after": after,
                   "stages": [stage.as_json() for stage in stages]})


def _layers(model: Path) -> list[dict]:
    """What ``inspect`` says of the layers."""
    return [row for row in placement.inspect(frontend.read(model)) if row["shape"] is not None]


def _dry_run(model: Path, rows: list[dict], screen: Screen) -> None:
    """Shows what would be pruned; exit code 1 where a layer cannot be."""
    columns = ["layer", "shape", "units", "kept", "reason"]
    screen.table(f"{model}, dry run", columns, [
        [row[column] for column in columns] for row in rows])
    screen.result({"layers": rows})
    if any(row["reason"] for row in rows):
        raise typer.Exit(1)


def compile_model(model: Path, calibration: Path | None, out: Path, engine: str | None,
                  names: list[str], batch: int | None, wishes: Path | None, method: str,
                  smooth: bool, given: list[str], screen: Screen) -> None:
    """See ``zeroskip compile --help``."""
    from zeroskip.sw.compiler.compile import check_name, compile_network, storage

    check_name(out)
    for path in (out, reference.beside(out)):
        check_writable(path)
    wanted = placement.read_wishes(wishes) if wishes else None
    graph = frontend.read(model, shapes(given))
    configs = placement.chosen(graph, engine, names, wanted)
    compiled = compile_network(graph, calibration and arrays(calibration), *configs, batch=batch,
                               wishes=wanted, method=method, smooth=smooth)
    compiled.save(out)
    used = [name_of(each) for each in dict.fromkeys(
        image.config for image in compiled.program.images)]
    if not names:
        screen.text(f"smallest configurations: {', '.join(used)}")

    reports = iter(compiled.report)
    rows = []
    for image in compiled.program.images:
        own, config = registry.engine(image.engine), name_of(image.config)
        facts = [{"engine": own.name, "target": config, **own.describe(layer, next(reports))}
                 for layer in image.layers]
        screen.table(f"{out}, {own.name} ({config})", list(own.shown.values()), [
            [row[key] for key in own.shown] for row in facts])
        rows += facts
        for row in facts:
            if reload := row.get("reload"):
                screen.text(f"layer {row['name']} is larger than {config}: {reload['loads']} "
                            f"loads, {reload['bytes']:,} bytes, for each {reload['samples']} "
                            "samples")
    sizes = storage(compiled.program)
    screen.table("storage, bytes", list(sizes), [list(sizes.values())])
    screen.result({"targets": used, "layers": rows, "bytes": sizes})
