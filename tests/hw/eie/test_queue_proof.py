"""The activation queue, proved: it refuses nothing of a broadcast that learns late that it is
full."""

import pytest
from amaranth.hdl import *

from zeroskip.hw.eie.config import PLACE_LATENCY, EIEConfig
from zeroskip.hw.eie.queue import ActivationQueue
from zeroskip.hw.stream import Queue, delay
from zeroskip.sim.proof import Claims, Refuted, edited, prove

SMALL = {"pes": 1, "act_depth": 2, "pointers": 16, "weight_rows": 2}


def full(kind, depth, latency):
    """``full`` takes ``latency`` cycles to where the columns' places are found, and what is sent
    there takes as many from there."""
    dut = kind(EIEConfig(**SMALL, queue_depth=depth, broadcast_latency=latency))
    claims = Claims(dut)
    (queue,) = claims.inside(Queue)
    claims.assume(~dut.i.valid | delay(claims.m, ~dut.full, 2 * latency + PLACE_LATENCY))
    claims.claim("what arrives is taken", dut.i.ready, when=dut.i.valid)
    claims.claim("full at its depth", dut.full == (queue.level >= depth))
    return claims


def order(kind):
    """With any sender that keeps to ``ready``."""
    config = EIEConfig(**SMALL, queue_depth=1, broadcast_latency=0)
    claims = Claims(dut := kind(config))
    inside = claims.follow(dut.i, dut.o, config.queue_slots, part=ends)
    claims.stable(dut.o, part=ends)
    claims.claim("what is inside is offered", dut.o.valid == (inside != 0))
    return claims


def ends(work):
    """The outermost bits."""
    return Cat(work.place[0], work.value[-1])


@pytest.mark.parametrize(("depth", "latency"), [(1, 0), (8, 1), (8, 2), (41, 1), (41, 2)])
def test_full_stops_the_broadcast_in_time(depth, latency):
    prove(full(ActivationQueue, depth, latency))


def test_order():
    prove(order(ActivationQueue))


@pytest.mark.parametrize(("old", "new"), [
    ("depth=self.config.queue_slots", "depth=self.config.queue_slots - 1"),
    ("queue.level > least", "queue.level >= least"),
    ("& ~(queue.o.valid & queue.o.ready), Signal()", ", Signal()"),
])
def test_full_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(full(edited(ActivationQueue, (old, new)), 8, 1))
