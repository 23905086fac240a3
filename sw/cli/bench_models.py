"""Command ``bench models``."""

from dataclasses import asdict

import typer

from zeroskip.hw import tools
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.runtime import backends


def models(names: list[str] | None, backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench models --help``."""
    require_torch()
    from zeroskip.sw.experiments import model_benchmarks

    jobs = model_benchmarks.jobs(names)
    rtl = backends.rtl(backend or backends.default())
    runs, total = [], len(jobs)
    with screen.progress(f"nets ({rtl.name})") as update, tools.scratch() as folder:
        for job in jobs:
            update(len(runs), total, f"{job.net.name}, {job.export}")
            runs.append(model_benchmarks.run(job, folder, rtl))
    rows = [asdict(run) for run in runs]
    screen.table(f"nets on tensor cores, golden against {rtl.name}", list(rows[0]), [
        [f"{value:.3f}" if key in ("error", "share") and value is not None else value
         for key, value in row.items()] for row in rows])
    good = sum(run.equal and (run.share or 0) <= 1 for run in runs)
    screen.text(f"{good} of {total} load, run, are equal in every buffer and, where the file is an "
                "ONNX model, within the bound of the float model in every layer")
    screen.result({"rows": rows})
    if good < total:
        raise typer.Exit(1)
