"""Command ``inspect``: what is in a model, and what is in a program."""

from pathlib import Path

from zeroskip.sw.cli.files import shapes
from zeroskip.sw.cli.screen import Screen, text
from zeroskip.sw.compiler import placement
from zeroskip.sw.compiler.compile import SUFFIX, storage
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import load as frontend


def inspect(path: Path, given: list[str], screen: Screen) -> None:
    """See ``zeroskip inspect --help``."""
    if path.suffix == SUFFIX:
        if given:
            raise BadInput(f"{path}: a program's shapes are known; leave --input-shape out")
        _program(path, screen)
    else:
        _model(path, given, screen)


def _model(path: Path, given: list[str], screen: Screen) -> None:
    """What computes each layer and operator; reasons stand apart, each once, so that the table
    stays narrow and none is cut."""
    rows = placement.inspect(frontend.read(path, shapes(given)))
    reasons = {reason: f"({number})" for number, reason in
               enumerate(dict.fromkeys(row["reason"] for row in rows), 1)}
    columns = ["name", "what", "density", "computed by", "macs", "cycles", "bytes"]
    screen.table(f"{path}; cycles and bytes are estimates", columns, [
        [row["name"], _words(row["kind"], row["shape"] and text(row["shape"])), row["density"],
         _words(row["engine"], row["pattern"], reasons[row["reason"]]), row["macs"],
         row["cycles"], row["bytes"]] for row in rows])
    screen.table("why", ["", "reason"], [[number, reason] for reason, number in reasons.items()])
    screen.result({"layers": rows})


def _words(*words: str | None) -> str:
    return " ".join(word for word in words if word)


def _program(path: Path, screen: Screen) -> None:
    from zeroskip.sw.runtime.facts import steps, totals

    program = Program.load(path)
    found, sizes = steps(program), storage(program)
    sums = totals(found)
    ports = [{"port": kind, **vars(port)} for kind, ports in
             (("input", program.inputs), ("output", program.outputs)) for port in ports]
    buffers = [{"buffer": name, "type": kind.dtype.name, "shape": list(kind.shape),
                "scale": kind.scale, "zero_point": kind.zero_point}
               for name, kind in program.buffers.items()]
    layers = [{"step": number, "layer": layer.name, "shape": layer.shape,
               "pattern": layer.pattern, "density": layer.density,
               "macs": layer.multiplications, "bytes": layer.bytes}
              for number, step in enumerate(found) for layer in step.layers]
    _table(f"{path}: ports, {program.batch} a run", ports, screen)
    screen.table("steps", ["step", "engine", "target", "computes", "reads", "writes"], [
        [number, step.engine, step.target, _computes(step), ", ".join(step.reads),
         ", ".join(step.writes)] for number, step in enumerate(found)])
    _table("layers of engines", layers, screen)
    _table("buffers", buffers, screen)
    screen.table("storage, bytes", list(sizes), [list(sizes.values())])
    screen.text(f"the host's share of the operations {sums.host_operations:.2%}, of the bytes that "
                f"steps read and write {sums.host_moved:.2%}")
    screen.result({
        "batch": program.batch, "ports": ports, "buffers": buffers,
        "steps": [step.as_json() for step in found], "bytes": sizes, "totals": vars(sums)})


def _table(title: str, rows: list[dict], screen: Screen) -> None:
    """A table of rows that have the same keys."""
    screen.table(title, [name.replace("_", " ") for name in rows[0]],
                 [list(row.values()) for row in rows])


def _computes(step) -> str:
    """A step's layers, or the host's operators."""
    from zeroskip.sw.api.page import operators
    return ", ".join(layer.name for layer in step.layers) or operators(step)
