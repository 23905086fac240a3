"""The way out of Amaranth: RTLIL with shared modules, Verilog, and Yosys to make it."""

import re
import sys

from amaranth.back import rtlil as amaranth_rtlil
from amaranth.hdl import Value
from amaranth.lib import data, wiring

from zeroskip.hw import tools
from zeroskip.hw.netlist.share import Collector, ports_of

_MODULE = re.compile(r"^module \\(\S+)\n", re.MULTILINE)
_NUMBERED_PORT = re.compile(r"put (\d+)  (\\port\$\d+\$\d+)$", re.MULTILINE)
_CELL = re.compile(r"  cell \\(\S+) (.*)")
_CONNECTION = re.compile(r"    connect (\S+) (.*)")


def rtlil(component: wiring.Component, name: str) -> str:
    """RTLIL of a component in which equal modules are one.

    Amaranth writes a module per instance. All PEs are equal, so that sharing them keeps the
    Verilog readable and a compiled simulation small: only the wires between the PEs grow with
    their number. Components that are marked as :func:`shared` are not even elaborated twice.
    """
    header, modules, waiting, shared_names = "", [], {name: component}, {}
    while waiting:
        below = {}
        for module, top in waiting.items():
            with Collector(top, name, shared_names) as collector:
                named = {port: (value, None) for port, _, value in ports_of(top)}
                header, own = _modules(amaranth_rtlil.convert(
                    top, name=module, ports=named, emit_src=False))
            modules += own
            below |= collector.components
        waiting = below
    names = {_MODULE.search(module)[1] for module in modules}

    # Children stand behind their parents, so that backwards each cell's type is settled.
    kept: dict[str, tuple[str, str]] = {}
    shared: dict[str, tuple[str, dict[str, str]]] = {}
    for module in reversed(modules):
        own = _MODULE.search(module)[1]
        module, ports = _settle(module, shared)
        body = _MODULE.sub("", module, count=1)
        if body not in kept:
            # "eie.pe_0" serves for all: it is called "eie.pe".
            general = ".".join(re.sub(r"_\d+$", "", part) for part in own.split("."))
            taken = names | {general for general, _ in kept.values()}
            general = own if general in taken else general
            kept[body] = general, module.replace(f"module \\{own}\n", f"module \\{general}\n", 1)
        shared[own] = kept[body][0], ports
    return header + "\n".join(module for _, module in reversed(kept.values()))


def _modules(text: str) -> tuple[str, list[str]]:
    """RTLIL in pieces: what stands before the modules, and each of them."""
    starts = [match.start() for match in re.finditer(r"^(attribute .*\n)*module ", text,
                                                     re.MULTILINE)]
    return text[:starts[0]], [text[a:b] for a, b in
                              zip(starts, [*starts[1:], len(text)], strict=True)]


def _settle(module: str, shared: dict) -> tuple[str, dict[str, str]]:
    """A module whose cells have their shared types, and how its ports were renamed.

    Amaranth names some ports after a net of the whole design; they get their position instead.
    """
    renamed = {name: f"\\port${position}" for position, name in _NUMBERED_PORT.findall(module)}

    def rename(text):
        return re.sub(r"\\port\$\d+\$\d+", lambda name: renamed[name[0]], text)

    lines, ports = [], {}
    for line in module.splitlines():
        if (cell := _CELL.fullmatch(line)):
            kind, ports = shared.get(cell[1], (cell[1], {}))
            line = f"  cell \\{kind} {cell[2]}"
        elif (connection := _CONNECTION.fullmatch(line)):
            port = ports.get(connection[1], connection[1])
            line = f"    connect {port} {rename(connection[2])}"
        else:
            line = rename(line)
        lines.append(line)
    return "\n".join(lines) + "\n", renamed


def verilog(component: wiring.Component, name: str) -> str:
    """Verilog of a component, ports named as in its signature: ``inputs__payload``."""
    with tools.scratch() as folder:
        source, target = folder / "in.il", folder / "out.v"
        source.write_text(rtlil(component, name))
        # Without processes: those that drive part of a vector leave X in SystemVerilog mode.
        yosys(f"read_rtlil {source}", "proc", "pmuxtree", "memory_collect",
              "opt_clean -purge", f"write_verilog -norename -noattr {target}")
        return target.read_text()


class YosysError(RuntimeError):
    """Yosys failed; the message ends with its log."""


def yosys(*commands: str) -> None:
    """Runs Yosys commands in a process of their own, because Yosys ends it on an error.

    Raises :class:`YosysError` with the last lines of its log if it fails.
    """
    script = ("import sys; from pyosys import libyosys as ys; design = ys.Design()\n"
              "for command in sys.argv[1:]: ys.run_pass(command, design)")
    done = tools.run([sys.executable, "-c", script, *commands])
    if done.returncode:
        raise YosysError(f"Yosys failed:\n{(done.stdout + done.stderr)[-2000:]}")


def ports(component: wiring.Component) -> list[dict]:
    """Name, direction and width of each port of the Verilog, and the fields of a payload."""
    found = [{"name": "clk", "direction": "in", "width": 1},
             {"name": "rst", "direction": "in", "width": 1}]
    for path, member, value in component.signature.flatten(component):
        port = {"name": "__".join(map(str, path)),
                "direction": "in" if member.flow is wiring.In else "out",
                "width": len(Value.cast(value))}
        if isinstance(member.shape, data.Layout):
            port["fields"] = [{"name": name, "lsb": field.offset, "width": field.width}
                              for name, field in member.shape]
        found.append(port)
    return found


_WAIVERS = {
    "DECLFILENAME": "one file holds all modules",
    "UNUSEDSIGNAL": "each field of a payload is a wire of its own beside the payload",
    "WIDTH": "a signed constant is as narrow as its value; the comparison extends it",
    "VARHIDDEN": "a memory has the name of the block that it fills",
}


def waivers() -> str:
    """Verilator's configuration file that waives, with the reason, what Amaranth's style of
    Verilog triggers under ``-Wall``."""
    lines = [f"// {reason}\nlint_off -rule {rule}" for rule, reason in _WAIVERS.items()]
    return "\n".join(["`verilator_config", *lines, ""])
