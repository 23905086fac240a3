"""Cells of designs that are counted by hand, and of a tensor core beside its dense-only build."""

import os
from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.fpga.area import Cells, synthesise
from zeroskip.fpga.families import FAMILIES
from zeroskip.hw.tensorcore.config import CONFIGS, TensorCoreConfig
from zeroskip.hw.tensorcore.core import TensorCore
from zeroskip.hw.tensorcore.lane import Lane

REGRESSION = bool(os.environ.get("ZEROSKIP_REGRESSION"))


class Adder(wiring.Component):
    """The registered sum of two bytes."""

    a: In(8)
    b: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.a + self.b)
        return m


class Multiplier(wiring.Component):
    """The registered product of two bytes."""

    a: In(8)
    b: In(8)
    o: Out(16)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.a * self.b)
        return m


class Storage(wiring.Component):
    """Words of 16 bits; with ``synchronous``, read a cycle after their address."""

    i: In(16)
    address: In(8)
    write: In(1)
    o: Out(16)

    def __init__(self, depth, synchronous):
        self.depth, self.synchronous = depth, synchronous
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = words = memory.Memory(shape=16, depth=self.depth, init=[])
        write = words.write_port()
        read = words.read_port(domain="sync" if self.synchronous else "comb")
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.i), write.en.eq(self.write),
                     read.addr.eq(self.address), self.o.eq(read.data)]
        if self.synchronous:
            m.d.comb += read.en.eq(~self.write)     # never of what is being written
        return m


COUNTED = {name: family for name, family in FAMILIES.items() if family.mapped}
both = pytest.mark.parametrize("family", COUNTED.values(), ids=COUNTED)


@both
@pytest.mark.parametrize("soft", [False, True])
def test_adder(family, soft):
    """A LUT and a flip-flop a bit: the carry is in the cell, or in a CCU2C of two."""
    assert synthesise(Adder(), family, soft=soft) == Cells(8, 8, 0, 0)


def test_families_that_are_counted():
    assert list(COUNTED) == ["ecp5", "ice40"]


@both
def test_multiplier_in_a_dsp_block(family):
    assert synthesise(Multiplier(), family, soft=False) == Cells(0, 16, 1, 0)


@both
def test_multiplier_in_logic(family):
    """Each of 64 partial products takes an AND and a full adder: one LUT to five."""
    found = synthesise(Multiplier(), family, soft=True)
    assert (found.flip_flops, found.multipliers, found.memories) == (16, 0, 0)
    assert 64 < found.logic < 64 * 5


@both
@pytest.mark.parametrize(("depth", "blocks"), [(256, 1), (257, 2)])
def test_memory_blocks(family, depth, blocks):
    """A block of ice40 holds 256 words of 16 bits, one of ECP5 1,024 of 18."""
    found = synthesise(Storage(depth, synchronous=True), family, soft=True)
    assert found.memories == (blocks if family.name == "ice40" else 1)
    assert found.multipliers == 0


def test_distributed_memory_counts_as_the_logic_that_it_occupies():
    """16 words of 16 bits are four TRELLIS_DPR16X4: 16 LUTs and their four write ports."""
    found = synthesise(Storage(16, synchronous=False), FAMILIES["ecp5"], soft=True)
    assert (found.flip_flops, found.multipliers, found.memories) == (0, 0, 0)
    assert found.logic == 4 * 6


@both
def test_operand_select_of_a_lane(family):
    """Each of two multipliers chooses between three operands: two LUTs for each of eight bits."""
    config = TensorCoreConfig(products=2)
    sparse, dense = (synthesise(Lane(each), family, soft=False)
                     for each in (config, replace(config, patterns=("dense",))))
    assert sparse.logic - dense.logic == 2 * 8 * 2
    assert (sparse.flip_flops, sparse.multipliers) == (dense.flip_flops, dense.multipliers)
    assert sparse.multipliers == 2


@pytest.mark.skipif(not REGRESSION, reason="minutes of synthesis; set ZEROSKIP_REGRESSION=1")
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("name", "family"), [("tc-8", "ice40"), ("tc-8", "ecp5"),
                                              ("tc-64", "ecp5")])
def test_sparse_build_of_the_named_configurations(name, family, soft):
    config = CONFIGS[name]
    sparse, dense = (synthesise(TensorCore(each), FAMILIES[family], soft=soft)
                     for each in (config, replace(config, patterns=("dense",))))
    assert sparse.multipliers == dense.multipliers
    assert (sparse.multipliers == 0) == soft
    assert dense.logic < sparse.logic < 1.2 * dense.logic
