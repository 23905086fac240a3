"""Command ``bench passes``."""

from dataclasses import asdict

import typer

from zeroskip.sw.cli.backend import chosen
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.targets import configuration
from zeroskip.sw.errors import BadInput
from zeroskip.sw.experiments import pass_benchmarks
from zeroskip.sw.runtime import backends

MOST = 8
"""Images at most: as many as there are samples."""


def passes(names: list[str] | None, config: str | None, images: int, backend: str | None,
           screen: Screen) -> None:
    """See ``zeroskip bench passes --help``."""
    known = pass_benchmarks.LAYERS
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise BadInput(f"there is no layer '{unknown[0]}'; choose from {', '.join(known)}")
    if not 1 <= images <= MOST:
        raise BadInput(f"--images must be 1 to {MOST}, not {images}")
    array, runs = configuration(config or "eie-16", "eie"), []
    name = backends.rtl(chosen(backend, screen)).name
    with screen.progress(f"layers in passes ({name})") as update:
        for number, layer in enumerate(names or known):
            update(number, len(names or known), layer)
            runs.append(pass_benchmarks.run(layer, array, images, name))
    rows = [asdict(run) for run in runs]
    shown = {"layer": "layer", "blocks": "blocks", "loads": "loads", "load_bytes": "bytes loaded",
             "load_cycles": "load cycles", "cycles": "cycles", "exact": "exact",
             "compile_mb": "MB", "compile_seconds": "s"}
    screen.table(f"{images} images in blocks on {config or 'eie-16'}; memory and time of compiling",
                 list(shown.values()), [
                     [f"{row[key]:.0f}" if key in ("compile_mb", "compile_seconds") else row[key]
                      for key in shown] for row in rows])
    screen.result({"rows": rows})
    if not all(run.exact for run in runs):
        raise typer.Exit(1)
