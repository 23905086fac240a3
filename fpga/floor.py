"""The floor plan of a placed design: where the cells of each of its blocks lie."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from zeroskip.fpga.flow import netlist

BLOCKS = 30
"""Blocks that a floor plan shows at most."""

_BEL = re.compile(r"X(\d+)/?Y(\d+)/")
_NUMBER = re.compile(r"_\d+$")


def floor(folder: Path) -> list[tuple[int, int, str]]:
    """Of each cell of the design that was built in ``folder``: column and row of its tile, and
    the block to which it belongs, an instance by its path."""
    scopes = {name for name, cell in netlist(folder).items() if cell["type"] == "$scopeinfo"}
    (module,) = [module for module in
                 json.loads((folder / "placed.json").read_text())["modules"].values()
                 if any("NEXTPNR_BEL" in cell["attributes"] for cell in module["cells"].values())]
    found = []
    for name, cell in module["cells"].items():
        if (at := _BEL.match(cell["attributes"].get("NEXTPNR_BEL", ""))):
            found.append((int(at[1]), int(at[2]), _scope(name, scopes)))
    shown = blocks([scope for *_, scope in found])
    return [(x, y, shown[scope]) for x, y, scope in found]


def _scope(cell: str, scopes: set[str]) -> tuple[str, ...]:
    """The innermost instance around a cell, as a path."""
    parts = cell.split(".")
    return next((tuple(parts[:end]) for end in range(len(parts), 0, -1)
                 if ".".join(parts[:end]) in scopes), ())


def blocks(scopes: Sequence[tuple[str, ...]], most: int = BLOCKS) -> dict[tuple[str, ...], str]:
    """For the instance of each cell the block that stands for it: again and again the largest
    block, with those that differ from it by a number only, is split into those inside, as long as
    there are no more than ``most``."""
    shown = dict.fromkeys(scopes, ())
    while True:
        alike = {}
        for scope in scopes:
            kind = tuple(_NUMBER.sub("", part) for part in shown[scope])
            alike.setdefault(kind, []).append(scope)
        count = len(set(shown.values()))
        for kind in sorted(alike, key=lambda kind: -len(alike[kind])):
            inside = {scope: scope[:len(kind) + 1] for scope in alike[kind]}
            parts, wholes = set(inside.values()), {shown[scope] for scope in inside}
            if parts != wholes and count + len(parts) - len(wholes) <= most:
                shown |= inside
                break
        else:
            return {scope: _name(block) for scope, block in shown.items()}


def _name(block: tuple[str, ...]) -> str:
    path = ".".join(block)
    return path.removeprefix("top.").removeprefix("accelerator.") or "board"
