"""Command ``bench sequences``."""

from dataclasses import asdict

import typer

from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.runtime import backends

SAMPLES = 100
"""Of the test set, in RTL."""


def sequences(backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench sequences --help``."""
    require_torch()
    from zeroskip.sw.experiments import sequences as experiment

    rtl = backends.rtl(backend or backends.default())
    rows = []
    with screen.progress(f"nets on sequences ({rtl.name})") as update:
        for net in experiment.NETS:
            update(len(rows), len(experiment.NETS), net)
            rows.append(asdict(experiment.run(net, rtl, SAMPLES)))
    screen.table(f"waves told apart on {experiment.TARGET}: accuracy on {experiment.TESTING} "
                 f"samples, and on {SAMPLES} with {rtl.name}",
                 [key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])
    screen.result({"rows": rows})
    if not all(row["equal"] for row in rows):
        raise typer.Exit(1)
