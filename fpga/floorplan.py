"""Places the memories and multipliers of each cluster of an array side by side on an ECP5.

Left alone, nextpnr spreads what belongs together over the whole device where block RAMs are many.
With these fixed, all the rest of a cluster gathers around them, and the wires are half as long.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from zeroskip.fpga.reset import CLUSTER
from zeroskip.sw.files import write

_GROUPS = (*range(4, 59, 9), *range(69, 115, 9))
"""Columns at which groups of four sites begin, in a row of them; an LFE5U-85."""
_SITES = {
    "DP16KD": ((22, 46, 70, 82), ((0, "EBR0"), (2, "EBR1"), (4, "EBR2"), (6, "EBR3"))),
    "MULT18X18D": ((10, 34, 58, 58), ((0, "MULT18_0"), (1, "MULT18_1"), (4, "MULT18_4"),
                                      (5, "MULT18_5"))),
}
"""Of block RAMs, and of the multipliers that are next to them: their rows, and the offset and name
of the sites of a group."""
_ROWS = 4


def arrange(netlist: Path, device: str) -> int:
    """Fixes cells in the JSON of Yosys' ``synth_ecp5``; returns how many.

    The clusters go to the rows of block RAMs in turn of their numbers, equally many to each, as the
    nodes of the LNZD trees take them together. None is fixed on any other ``device`` than an
    ``"85k"``, or if one cluster has more memories than its share of a row.
    """
    design, clusters = json.loads(netlist.read_text()), defaultdict(list)
    for module in design["modules"].values():
        for name, cell in module["cells"].items():
            found = CLUSTER.search(name)
            if found and cell["type"] in _SITES:
                clusters[int(found[1])].append(cell)
    columns = -(-len(clusters) // _ROWS)
    if device != "85k" or len(clusters) < 2:
        return 0
    share, taken = 4 * len(_GROUPS) // columns, set()
    for number, cells in sorted(clusters.items()):
        row, column = divmod(number, columns)
        free = {kind: _sites(kind, row, column * share, share) for kind in _SITES}
        for cell in cells:
            site = next((each for each in free[cell["type"]] if each not in taken), None)
            if site is None:
                return 0
            taken.add(site)
            cell["attributes"]["BEL"] = site
    write(netlist, json.dumps(design))
    return len(taken)


def _sites(kind: str, row: int, first: int, count: int) -> Iterator[str]:
    """Names of sites in a row, from the middle of the share outwards."""
    rows, offsets = _SITES[kind]
    middle = first + count // 2
    for number in sorted(range(first, first + count), key=lambda site: abs(site - middle)):
        group, which = divmod(number, len(offsets))
        offset, name = offsets[which]
        yield f"X{_GROUPS[group] + offset}/Y{rows[row]}/{name}"
