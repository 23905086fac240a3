# amaranth: UnusedElaboratable=no
"""The lane: every product of every multiplier with every choice of its operand, in the compiled
simulation, against numpy."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import delay
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.lane import Lane
from zeroskip.sim import cxxrtl
from zeroskip.sw.errors import ToolMissing

PATTERNS = {"dense": ("dense",), "2:4": ("dense", "2:4"), "1:4": ("dense", "2:4", "1:4")}
ITEM = data.StructLayout({
    "weights": data.ArrayLayout(signed(8), 2), "operands": data.ArrayLayout(signed(8), 8),
    "select": data.ArrayLayout(2, 2), "int4": 1})
ORDERED = list(combinations(range(4), 2))


class Lanes(wiring.Component):
    """A lane of every kind, each between two streams: ``int8_0_i`` and ``int8_0_o`` are those of
    the first of ``PATTERNS``, built without 4-bit pairs."""

    def __init__(self):
        self.kinds = {f"{'int4' if int4 else 'int8'}_{at}": TensorCoreConfig(
            patterns=patterns, int4=int4) for int4 in (False, True)
            for at, patterns in enumerate(PATTERNS.values())}
        super().__init__({
            **{f"{kind}_i": In(stream.Signature(ITEM)) for kind in self.kinds},
            **{f"{kind}_o": Out(stream.Signature(signed(32))) for kind in self.kinds}})

    def elaborate(self, platform):
        m = Module()
        for kind, config in self.kinds.items():
            m.submodules[kind] = lane = Lane(config)
            i, o = getattr(self, f"{kind}_i"), getattr(self, f"{kind}_o")
            m.d.comb += [
                i.ready.eq(1),
                lane.weights.eq(i.payload.weights),
                lane.operands.eq(i.payload.operands),
                o.valid.eq(delay(m, i.valid, Lane.LATENCY)),
                o.payload.eq(lane.sum),
            ]
            if config.sparse:
                m.d.comb += lane.select.eq(i.payload.select)
            if config.int4:
                m.d.comb += lane.int4.eq(i.payload.int4)
        return m


@pytest.fixture(scope="module")
def lane():
    """``lane(pattern, weights, operands, select, int4=, built=)``: the sums int64 [n] of a lane
    ``built`` with or without 4-bit pairs."""
    try:
        library = cxxrtl.build(Lanes, "lanes", Path(__file__).read_text())
    except ToolMissing as missing:
        pytest.skip(str(missing))
    model = cxxrtl.Model(library)

    def lane(pattern, weights, operands, select, *, int4=False, built=None):
        items = np.zeros((len(weights), 12), np.uint8)
        items[:, :2] = weights.view(np.uint8)
        items[:, 2:2 + operands.shape[1]] = operands.view(np.uint8)
        items[:, 10] = select[:, 0] | select[:, 1] << 2 | int4 << 4
        kind = f"{'int4' if int4 or built else 'int8'}_{list(PATTERNS).index(pattern)}"
        sums, cycles = model.run({f"{kind}_i": items.view("<u4")},
                                 {f"{kind}_o": len(items)}, 10)[f"{kind}_o"]
        assert np.all(np.diff(cycles.astype(np.int64)) == 1), "one a cycle"
        return sums[:, 0].view(np.int32).astype(np.int64)
    return lane


EVERY = np.arange(1 << 16, dtype=np.uint32)
PAIRS = np.stack([EVERY & 0xFF, EVERY >> 8], axis=1).astype(np.uint8).view(np.int8)
"""Every weight with every operand, [65536, 2]."""


def case(slot, places, size, seed):
    """Every pair in one slot and anything in the other: weights [n, 2], chosen operands [n, 2],
    and a window [n, size] with these at ``places``; no other operand is equal to one of them."""
    rng = np.random.default_rng(seed)
    both = rng.integers(-128, 128, (len(PAIRS), 2, 2), np.int8)
    both[:, slot] = PAIRS
    weights, chosen = both[..., 0].copy(), both[..., 1].copy()
    window = rng.integers(-128, 128, (len(PAIRS), size), np.int8)
    for _ in range(2):
        window += (window == chosen[:, :1]) | (window == chosen[:, 1:])
    window[:, list(places)] = chosen
    return weights, chosen, window


def products(weights, chosen):
    return weights.astype(np.int64) * chosen


def dots(weights, chosen):
    """Dot products of 4-bit pairs."""
    def halves(values):
        unsigned = values.astype(np.int64) & 0xFF
        return [(half ^ 8) - 8 for half in (unsigned & 15, unsigned >> 4)]

    (w0, w1), (x0, x1) = halves(weights), halves(chosen)
    return w0 * x0 + w1 * x1


MODES = pytest.mark.parametrize(("built", "int4", "expected"), [
    (False, False, products), (True, False, products), (True, True, dots)],
    ids=["int8", "int8 beside int4", "int4"])


def check(lane, pattern, slot, places, window, select, seed, built, int4, expected):
    weights, chosen, operands = case(slot, places, window, seed)
    select = np.broadcast_to(np.array(select, np.uint8), (len(weights), 2))
    found = lane(pattern, weights, operands, select, int4=int4, built=built)
    np.testing.assert_array_equal(found, expected(weights, chosen).sum(axis=1))


@pytest.mark.parametrize("patterns", PATTERNS.values(), ids=PATTERNS)
def test_ports_are_as_wide_as_two_products_need(patterns):
    members = Lane(TensorCoreConfig(patterns=patterns)).signature.members
    assert members["weights"].shape == data.ArrayLayout(signed(8), 2)
    assert members["sum"].shape == signed(17)
    if len(patterns) > 1:
        assert members["select"].shape == data.ArrayLayout(2, 2)
    else:
        assert "select" not in members


@MODES
@pytest.mark.parametrize("slot", [0, 1])
def test_every_pair_without_select(lane, slot, built, int4, expected):
    check(lane, "dense", slot, (0, 1), 2, (3, 0), slot, built, int4, expected)


@MODES
@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("places", ORDERED, ids=str)
def test_every_pair_with_each_of_the_six_patterns(lane, places, slot, built, int4, expected):
    check(lane, "2:4", slot, places, 4, places, slot, built, int4, expected)


@MODES
@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("place", range(4))
def test_every_pair_at_each_place_of_its_own_group(lane, place, slot, built, int4, expected):
    for other in range(4):
        first, second = (place, other) if slot == 0 else (other, place)
        check(lane, "1:4", slot, (first, 4 + second), 8, (first, second), other, built, int4,
              expected)


def test_the_expected_dot_products_are_those_of_signed_4_bit_numbers():
    assert dots(np.int8([0x21, -128, 0x77]), np.int8([0x43, -128, -1])).tolist() == [
        1 * 3 + 2 * 4, 8 * 8, -14]


def test_the_six_patterns_are_those_of_the_ordered_metadata():
    """PTX ISA, mma.sp: the nibbles 4, 8, 9, 12, 13, 14."""
    assert sorted(low | high << 2 for low, high in ORDERED) == [4, 8, 9, 12, 13, 14]
