"""Command ``bench models``."""

from dataclasses import asdict

import typer

from zeroskip.hw import tools
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.runtime import backends


def models(names: list[str] | None, backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench models --help``."""
    require_torch()
    from zeroskip.sw.experiments import everyday, model_benchmarks

    unknown = sorted(set(names or ()) - {net.name for net in everyday.NETS})
    if unknown:
        raise BadInput(f"there is no net '{unknown[0]}'; choose from "
                       f"{', '.join(net.name for net in everyday.NETS)}")
    nets = [net for net in everyday.NETS if not names or net.name in names]
    rtl = backends.rtl(backend or backends.default())
    runs, total = [], len(nets) * len(model_benchmarks.EXPORTS)
    with screen.progress(f"everyday nets ({rtl.name})") as update, \
            tools.scratch() as folder:
        for net in nets:
            for kind in model_benchmarks.EXPORTS:
                update(len(runs), total, f"{net.name}, {kind}")
                runs.append(model_benchmarks.run(net, kind, folder, rtl))
    rows = [asdict(run) for run in runs]
    screen.table(f"everyday nets on tc-8, golden against {rtl.name}", list(rows[0]), [
        [f"{value:.3f}" if isinstance(value, float) and key == "error" else value
         for key, value in row.items()] for row in rows])
    good = sum(run.equal for run in runs)
    screen.text(f"{good} of {total} load, run, and are equal in every buffer")
    screen.result({"rows": rows})
    if good < total:
        raise typer.Exit(1)
