"""Leading-non-zero detection, proved for each child of a node and each leaf of a tree."""

import pytest
from amaranth.hdl import *

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.lnzd import FAN_IN, LNZDNode, LNZDTree
from zeroskip.sim.proof import Claims, Refuted, Vacuous, edited, prove

BORDERS = 5
"""One more than a node takes, so that a tree has two levels."""
CONFIG = EIEConfig(pes=BORDERS, act_depth=2)


def ends(activation):
    """Whose it is, and the outermost bit of the value."""
    return Cat(activation.index, activation.value[-1])


def of_one(dut, child, room):
    """What enters at one child, told by its ``index``, leaves once and in order."""
    claims = Claims(dut)
    for k, i in enumerate(dut.i):
        claims.assume(i.payload.index == 1 + k)
    inside = claims.follow(dut.i[child], dut.o, room, part=ends,
                           of=dut.o.payload.index == 1 + child)
    claims.stable(dut.o, part=ends)
    claims.claim("it has entered", dut.o.payload.index != 0, when=dut.o.valid)
    return claims, inside


def node(kind, child):
    dut = kind(CONFIG, FAN_IN)
    claims, inside = of_one(dut, child, 2)
    waits = Signal()
    claims.m.d.sync += waits.eq(dut.o.valid & ~dut.o.ready)
    claims.claim("an item is offered", dut.o.valid, when=inside != 0)
    claims.claim("only lower children go first", dut.o.payload.index <= 1 + child,
                 when=(inside != 0) & ~waits)
    claims.claim("both registers are used", dut.i[child].ready == (inside != 2))
    return claims


def tree(kind, leaf):
    dut = kind(CONFIG)
    claims, inside = of_one(dut, leaf, 4)
    claims.claim("not idle", ~dut.idle, when=inside != 0)
    return claims


@pytest.mark.parametrize("child", range(FAN_IN))
def test_node(child):
    prove(node(LNZDNode, child))


@pytest.mark.parametrize(("old", "new"), [
    ("Mux(waits, chosen, leading)", "leading"),
    ("waits.eq(self.o.valid & ~self.o.ready)", "waits.eq(~self.o.ready)"),
    ("bit & ~waiting[:k].any()", "bit & ~waiting[k + 1:].any()"),
])
def test_node_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(node(edited(LNZDNode, (old, new)), 1))


@pytest.mark.parametrize("leaf", range(BORDERS))
def test_tree(leaf):
    prove(tree(LNZDTree, leaf))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("node.o.valid for node in nodes", "node.o.valid for node in nodes[:1]", "'not idle' fails"),
    ("range(0, len(below), FAN_IN)", "range(0, len(below) - 1, FAN_IN)", "never arises"),
])
def test_tree_with_a_fault(old, new, message):
    with pytest.raises((Refuted, Vacuous), match=message):
        prove(tree(edited(LNZDTree, (old, new)), BORDERS - 1))
