"""Places the memories and multipliers of each cluster of an array side by side.

Left alone, nextpnr spreads what belongs together over the whole device where block RAMs are many.
With these fixed, all the rest of a cluster gathers around them, and the wires are half as long.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zeroskip.fpga.blocks import CLUSTER
from zeroskip.sw.files import write


@dataclass(frozen=True)
class Plan:
    """Sites of a device, in rows of block RAMs with the multipliers that are next to them.

    Attributes
    ----------
    groups : tuple of int
        Columns at which groups of sites begin, in each row.
    rows : dict of tuple
        By type of cell, the rows of its sites; as many for each.
    sites : dict of tuple
        By type of cell, the offset from the begin of a group, and the name, of each of its sites.
    """

    groups: tuple[int, ...]
    rows: dict[str, tuple[int, ...]]
    sites: dict[str, tuple[tuple[int, str], ...]]


def arrange(netlist: Path, plan: Plan) -> int:
    """Fixes cells in the JSON of Yosys; returns how many.

    The clusters go to the rows of block RAMs in turn of their numbers, equally many to each, as the
    nodes of the LNZD trees take them together. None is fixed if there is but one, or if one has
    more memories than its share of a row.
    """
    design, clusters = json.loads(netlist.read_text()), defaultdict(list)
    for module in design["modules"].values():
        for name, cell in module["cells"].items():
            found = CLUSTER.search(name)
            if found and cell["type"] in plan.sites:
                clusters[found[1], int(found[2])].append(cell)
    if len(clusters) < 2:
        return 0
    rows, *_ = plan.rows.values()
    size, *_ = map(len, plan.sites.values())
    columns = -(-len(clusters) // len(rows))
    share, taken = size * len(plan.groups) // columns, set()
    for number, (_, cells) in enumerate(sorted(clusters.items())):
        row, column = divmod(number, columns)
        free = {kind: _sites(plan, kind, row, column * share, share) for kind in plan.sites}
        for cell in cells:
            site = next((each for each in free[cell["type"]] if each not in taken), None)
            if site is None:
                return 0
            taken.add(site)
            cell["attributes"]["BEL"] = site
    write(netlist, json.dumps(design))
    return len(taken)


def _sites(plan: Plan, kind: str, row: int, first: int, count: int) -> Iterator[str]:
    """Names of sites in a row, from the middle of the share outwards."""
    sites = plan.sites[kind]
    middle = first + count // 2
    for number in sorted(range(first, first + count), key=lambda site: abs(site - middle)):
        group, which = divmod(number, len(sites))
        offset, name = sites[which]
        yield f"X{plan.groups[group] + offset}/Y{plan.rows[kind][row]}/{name}"
