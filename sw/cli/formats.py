"""Command ``bench formats``: bits per weight of formats that an EIE weight memory could have."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import geometric_mean

import numpy as np
from amaranth.utils import bits_for, ceil_log2

from zeroskip.hw.eie.config import NIBBLES
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.engines.eie.directory import nibbles_for, words_for
from zeroskip.sw.engines.eie.lower import compile_layers, deepened
from zeroskip.sw.experiments.benchmarks import array_config, fixed_layer
from zeroskip.sw.experiments.layers import NINE, PaperLayer

PES = 64
VALUE = 4
"""Bits of a codebook index."""


@dataclass(frozen=True, eq=False)
class Entries:
    """The weights of a layer as PEs hold them, in their order.

    Attributes
    ----------
    pe, column, gap : int [weights]
        Who holds it, in which column, and how many of its rows lie since the weight before.
    columns, width, rows : int
        Columns of the layer; columns and rows of one PE.
    """

    pe: np.ndarray
    column: np.ndarray
    gap: np.ndarray
    columns: int
    width: int
    rows: int


@dataclass(frozen=True)
class Format:
    """``units`` of ``bits`` per weight, int [weights], from the entries."""

    bits: Callable[[Entries], int]
    units: Callable[[Entries], np.ndarray]


def _byte(entries: Entries) -> np.ndarray:
    return 1 + 2 * (entries.gap // 272) + (entries.gap % 272 > 15)


def _nibbles(entries: Entries) -> np.ndarray:
    """The index, and a gap of up to 11 in a nibble, up to 59 in two, or in three."""
    return 2 + (entries.gap > 11) + (entries.gap > 59)


def _rice(entries: Entries) -> np.ndarray:
    """A Rice code of the gap, with the best parameter for the layer."""
    codes = ((entries.gap >> k) + 1 + k for k in range(7))
    return VALUE + min(codes, key=np.sum)


FORMATS = {
    "byte, padding entry": Format(lambda _: 8, lambda entries: 1 + entries.gap // 16),
    "byte, escape": Format(lambda _: 8, _byte),
    "9 bits, padding entry": Format(lambda _: 9, lambda entries: 1 + entries.gap // 32),
    "row in full": Format(lambda entries: VALUE + ceil_log2(entries.rows),
                          lambda entries: np.ones_like(entries.gap)),
    "nibbles": Format(lambda _: 4, _nibbles),
    "Rice code": Format(lambda _: 1, _rice),
}
"""By name; a byte holds an index and a gap of 4 bits."""


def formats(screen: Screen) -> None:
    """See ``zeroskip bench formats --help``."""
    found = {}
    with screen.progress("assigning rows") as update:
        for mask in ("random", "skewed"):
            for layer in NINE.values():
                update(len(found), 2 * len(NINE), f"{layer.name}, {mask}")
                found[mask, layer.name] = _sizes(layer, mask)
    rows = [{"mask": mask, "format": name} | {
        key: geometric_mean(found[mask, layer][name][key] for layer in NINE)
        for key in ("entries", "with_counts", "with_pointers")}
        for mask in ("random", "skewed") for name in FORMATS]
    screen.table(f"bits per weight of {PES} PEs, rows assigned; geometric means of the nine layers",
                 list(rows[0]), [list(row.values()) for row in rows])
    screen.result({"rows": rows})


def _sizes(layer: PaperLayer, mask: str) -> dict[str, dict[str, float]]:
    """Bits per weight of a layer in every format: entries alone, and with each directory."""
    entries = _entries(layer.weights(mask, PES))
    weights, sizes = len(entries.gap), {}
    for name, each in FORMATS.items():
        bits, units = each.bits(entries), each.units(entries)
        held = np.zeros((PES, entries.columns), np.int64)
        np.add.at(held, (entries.pe, entries.column), units)
        address = bits_for(int(held.sum(axis=1).max()))
        words = words_for(entries.width, nibbles_for(int(held.max())))
        own = bits * units.sum() / weights
        sizes[name] = {
            "entries": own,
            "with_counts": own + PES * words * (4 * NIBBLES + address) / weights,
            "with_pointers": own + PES * entries.width * address / weights}
    return sizes


def _entries(indices: np.ndarray) -> Entries:
    image = compile_layers((fixed_layer(indices),), deepened(array_config("zeroskip", PES)))
    (info,), columns = image.layers, indices.shape[1]
    owners = info.owners(image.config)
    row, column = np.nonzero(indices)
    turn, cluster = np.divmod(image.positions(0)[row], owners)
    pe = cluster + owners * (column // owners % (PES // owners))
    by_pe = np.lexsort((turn, column, pe))
    pe, column, turn = pe[by_pe], column[by_pe], turn[by_pe]
    same = np.append(False, (np.diff(pe) == 0) & (np.diff(column) == 0))
    gap = np.where(same, np.diff(turn, prepend=0) - 1, turn)
    return Entries(pe, column, gap, columns, info.width(image.config, columns),
                   info.words(image.config))
