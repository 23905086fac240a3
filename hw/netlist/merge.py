r"""Equal modules of a design become one: the only place that reads and rewrites RTLIL as text.

What it relies on is how Amaranth lays RTLIL out, which no specification says:

- a module is its attributes, a line ``module \name``, and lines to its ``end``; those that it
  holds follow it, and are called ``parent.child``;
- a cell of a module is a line ``  cell \type \name``, its ports are the lines
  ``    connect \port net`` behind it;
- a port that has no name is called ``\port$cell$bit``, after a net of the whole design, and is
  declared in a line that ends with ``put position  \port$cell$bit``.

``tests/hw/netlist/test_merge.py`` keeps such a text for each version of Amaranth.
"""

import re

_START = re.compile(r"^(?:attribute .*\n)*module \\(\S+)\n", re.MULTILINE)
_HEAD = re.compile(r"^module \\(\S+)\n", re.MULTILINE)
_CELL = re.compile(r"  cell \\(\S+) (.*)")
_CONNECTION = re.compile(r"    connect (\S+) (.*)")
_NUMBERED = re.compile(r"\\port\$\d+\$\d+")
_NUMBERED_PORT = re.compile(r"put (\d+)  (\\port\$\d+\$\d+)$", re.MULTILINE)


def split(text: str) -> list[str]:
    """The modules of a design, in their order; joined they are ``text``."""
    starts = [match.start() for match in _START.finditer(text)]
    return [text[a:b] for a, b in zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True)]


def merge(modules: list[str]) -> str:
    """A design of modules, each behind those that hold it, in which equal ones are one.

    Modules are equal if nothing but their names, the names of what they hold, and the numbers in
    names of ports differs.
    """
    names = {_HEAD.search(module)[1] for module in modules}
    kept: dict[str, tuple[str, str]] = {}
    shared: dict[str, tuple[str, dict[str, str]]] = {}
    # Backwards the type of each cell is settled when it is met.
    for module in reversed(modules):
        own = _HEAD.search(module)[1]
        module, ports = _settle(module, shared)
        body = _HEAD.sub("", module, count=1)
        if body not in kept:
            # "eie.pe_0" serves for all: it is called "eie.pe".
            general = ".".join(re.sub(r"_\d+$", "", part) for part in own.split("."))
            taken = names | {general for general, _ in kept.values()}
            general = own if general in taken else general
            kept[body] = general, module.replace(f"module \\{own}\n", f"module \\{general}\n", 1)
        shared[own] = kept[body][0], ports
    return "\n".join(module for _, module in reversed(kept.values()))


def _settle(module: str, shared: dict[str, tuple[str, dict[str, str]]]
            ) -> tuple[str, dict[str, str]]:
    """A module whose cells have the types and ports of ``shared``; and how its own ports are
    called, for numbered ones get their position as a name."""
    renamed = {name: f"\\port${position}" for position, name in _NUMBERED_PORT.findall(module)}

    def rename(text):
        return _NUMBERED.sub(lambda name: renamed[name[0]], text)

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
