"""The bricks for streams, proved for all inputs and all time, resets at any cycle included."""

import pytest
from amaranth.hdl import *

from zeroskip.hw.stream import Downsizer, Queue, Skid, Upsizer
from zeroskip.sim.proof import Claims, Refuted, edited, prove

NARROW, WIDE = 20, 80
"""Bits of an item of one word, and of an item of three."""


def keeps(dut, room):
    """What both queues claim, and how many items are inside."""
    claims = Claims(dut)
    inside = claims.follow(dut.i, dut.o, room)
    claims.stable(dut.o)
    claims.claim("what is inside is offered", dut.o.valid == (inside != 0))
    return claims, inside


def queue(kind, depth):
    dut = kind(1, depth=depth)
    claims, inside = keeps(dut, depth)
    claims.claim("the level counts", dut.level == inside)
    claims.claim("every slot is used", dut.i.ready == (inside != depth))
    return claims


def skid(kind):
    dut = kind(2)
    claims, inside = keeps(dut, 2)
    claims.claim("both registers are used", dut.i.ready == (inside != 2))
    return claims


def upsizer(kind, width):
    """The words that entered, the lowest first, are the item that is offered."""
    dut, words = kind(width), -(-width // 32)
    claims = Claims(dut)
    m, got, count = claims.m, Signal(32 * words), Signal(range(words + 1))
    with m.If(dut.i.valid & dut.i.ready):
        m.d.sync += [got.word_select(count, 32).eq(dut.i.payload), count.eq(count + 1)]
    with m.If(dut.o.valid & dut.o.ready):
        m.d.sync += count.eq(0)
    claims.claim("an item is offered once it is whole", dut.o.valid == (count == words))
    claims.claim("its words enter before", dut.i.ready == (count != words))
    claims.claim("words in order", dut.o.payload == got[:width], when=dut.o.valid)
    claims.stable(dut.o)
    return claims


def downsizer(kind, width):
    """The words that leave, the lowest first, are those of the item that entered."""
    dut, words = kind(width), -(-width // 32)
    claims = Claims(dut)
    m, item, count = claims.m, Signal(32 * words), Signal(range(words + 1), init=words)
    with m.If(dut.i.valid & dut.i.ready):
        m.d.sync += [item.eq(dut.i.payload), count.eq(0)]
    with m.Elif(dut.o.valid & dut.o.ready):
        m.d.sync += count.eq(count + 1)
    claims.claim("a word is offered until all have left", dut.o.valid == (count != words))
    claims.claim("then an item enters", dut.i.ready == (count == words))
    claims.claim("words in order", dut.o.payload == item.word_select(count, 32),
                 when=dut.o.valid)
    claims.stable(dut.o)
    return claims


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_queue(depth):
    prove(queue(Queue, depth))


@pytest.mark.parametrize(("old", "new"), [
    ("full.eq(self.level == self.depth - 1)", "full.eq(self.level == self.depth)"),
    ("at == self.depth - 1", "at == self.depth"),
    ("self.level != 1", "self.level != 0"),
])
def test_queue_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(queue(edited(Queue, (old, new)), 3))


def test_skid():
    prove(skid(Skid))


@pytest.mark.parametrize(("old", "new"), [
    ("        with m.If(~holds):\n            m.d.sync += spare", "        m.d.sync += spare"),
    ("m.Elif(~holds)", "m.Else()"),
])
def test_skid_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(skid(edited(Skid, (old, new))))


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_upsizer(width):
    prove(upsizer(Upsizer, width))


@pytest.mark.parametrize(("old", "new"), [
    ("Cat(held, self.i.payload)[32:]", "Cat(self.i.payload, held)"),
    ("self.i.ready.eq(~self.o.valid)", "self.i.ready.eq(1)"),
])
def test_upsizer_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(upsizer(edited(Upsizer, (old, new)), WIDE))


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_downsizer(width):
    prove(downsizer(Downsizer, width))


@pytest.mark.parametrize(("old", "new"), [
    ("count.eq(words)", "count.eq(words - 1)"),
    ("self.i.ready.eq(count == 0)", "self.i.ready.eq(count <= 1)"),
])
def test_downsizer_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(downsizer(edited(Downsizer, (old, new)), WIDE))
