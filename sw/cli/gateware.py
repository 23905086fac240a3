"""Commands on the gateware and the tools: ``verilog`` and ``doctor``."""

import importlib.metadata
import json
import shutil
from pathlib import Path

from zeroskip.hw import tools as programs
from zeroskip.sw.cli.files import check_writable
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.targets import configuration, name_of, targets
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.files import write_all

TOOLS = {
    "verilator": ("--version", "lints and simulates the Verilog", "apt install verilator"),
    "iverilog": ("-V", "simulates the Verilog", "apt install iverilog"),
}
"""Optional programs: how they tell their version, what for, how to get them."""

PACKAGES = {
    "amaranth": ("the hardware description", "pip install zeroskip"),
    "pyosys": ("Verilog, compiled simulation, synthesis", "pip install zeroskip"),
    "torch": ("training and pruning, .pt2", "pip install 'zeroskip[train]'"),
}
"""Python packages: what for, how to get them."""


def verilog(core: str, out: Path, config: str | None, screen: Screen) -> None:
    """See ``zeroskip verilog --help``."""
    from zeroskip.hw.netlist import emit
    from zeroskip.hw.system.accelerator import Accelerator, register_map
    from zeroskip.hw.system.config import MAGIC, MOST, VERSION, SystemConfig
    from zeroskip.hw.system.rdl import systemrdl

    known = (*registry.names(), "accelerator")
    if core not in known:
        raise BadInput(f"there is no core '{core}'; choose one of {', '.join(known)}")
    if out.suffix not in (".v", ".sv"):
        raise BadInput(f"{out}: Verilog goes into a file that ends in .v or .sv; its ports and "
                       "lint waivers are written beside it")
    described_in, waived_in, registers_in = (out.with_suffix(s) for s in (".json", ".vlt", ".rdl"))
    files = [out, described_in, waived_in, *[registers_in] * (core == "accelerator")]
    for path in files:
        check_writable(path)
    if core == "accelerator":
        names = config.split(",") if config else []
        cores = [each for name in names for each in targets(None, [name.strip()])]
        if len(cores) > MOST:
            raise BadInput(f"--config names {len(cores)} configurations, and an accelerator has "
                           f"{MOST} cores at most; name fewer")
        dut = Accelerator(SystemConfig(tuple(cores or targets(None, []))))
        facts = {"config": [name_of(each) for each in dut.system.cores],
                 "digest": [each.digest() for each in dut.system.cores],
                 "identity": {"magic": MAGIC.decode(), "version": VERSION,
                              "digest": f"{dut.system.digest():016x}"}}
    else:
        made = configuration(config, core)
        dut = made.component()
        facts = {"config": name_of(made), "digest": made.digest(),
                 "memory_bits": made.memory_bits, "latency": dut.signature.latency}
    ports = emit.ports(dut)
    with screen.progress("Amaranth, Yosys"):
        text = emit.verilog(dut, core)
    described = {"core": core, **facts, "ports": ports}
    contents = {out: text, waived_in: emit.waivers()}
    if core == "accelerator":
        pages = register_map(dut.system).values()
        contents[registers_in] = systemrdl("accelerator", pages)
        described["registers"] = {f"{page.name}.{name}": address for page in pages
                                  for name, address in page.addresses.items()}
    contents[described_in] = json.dumps(described, indent=2) + "\n"
    write_all(contents)
    screen.text(f"{out}: {len(text.splitlines()):,} lines, {len(ports)} ports; beside it "
                f"{', '.join(path.name for path in files[1:])}")
    screen.result(described)


def doctor(warm: bool, screen: Screen) -> None:
    """See ``zeroskip doctor --help``."""
    from zeroskip.fpga.families import FAMILIES
    from zeroskip.sim import cxxrtl
    from zeroskip.sw.runtime import backends

    tools = [(tool, f"{purpose}, {name}") for name, family in FAMILIES.items()
             for tool, purpose in ((family.nextpnr, "place and route"),
                                   (family.packer, "bitstreams"))]
    if warm:
        with screen.progress("tools from PyPI") as update:
            for done, (tool, _) in enumerate(tools):
                update(done, len(tools), tool.native)
                if _package(tool.package):
                    programs.run([*tool.command(), "--help"])
    rows = []
    for name, (purpose, remedy) in PACKAGES.items():
        rows.append({"tool": name, "version": _package(name), "for": purpose, "get": remedy})
    for name, (flag, purpose, remedy) in TOOLS.items():
        rows.append({"tool": name, "version": _version(name, flag), "for": purpose,
                     "get": remedy})
    try:
        command = cxxrtl.compiler()
        found = _version(command[0], "--version") if len(command) == 1 else "ziglang"
    except ToolMissing:
        found = None
    rows.append({"tool": "C++ compiler", "version": found, "for": "compiled simulation",
                 "get": "apt install g++, or pip install ziglang"})
    for tool, purpose in tools:
        found = _package(tool.package) or shutil.which(tool.native)
        rows.append({"tool": tool.native, "version": found, "for": purpose,
                     "get": "pip install 'zeroskip[fpga]'"})
    screen.table("tools", ["tool", "version", "for", "how to get it"], [
        [row["tool"], row["version"] or "missing", row["for"],
         "" if row["version"] else row["get"]] for row in rows])
    screen.text(f"default backend: {backends.default()}")
    screen.result({"tools": rows, "default_backend": backends.default()})


def _package(name: str) -> str | None:
    """Version of a Python package, or None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version(name: str, flag: str) -> str | None:
    """First line of a program's version, or None where it is not installed."""
    if not shutil.which(name):
        return None
    done = programs.run([name, flag])
    return ((done.stdout or done.stderr).splitlines() or ["of unknown version"])[0]
