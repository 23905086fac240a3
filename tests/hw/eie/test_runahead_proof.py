"""Run-ahead, proved: no queue is offered what it refuses, whatever the inputs do."""

import sys

import pytest

from zeroskip.hw.eie.activation import ActivationUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.pointer import PointerRead
from zeroskip.hw.eie.spmat import SparseMatrixRead
from zeroskip.hw.pipeline import RunAhead
from zeroskip.hw.stream import Queue
from zeroskip.sim.proof import Claims, Refuted, edited, prove

SMALL = {"pes": 2, "groups": 2, "act_depth": 2, "acc_width": 17, "bias_depth": 2,
         "weight_rows": 2, "pointers": 16}


def takes_all(kind, runahead, **sizes):
    """The queue behind a pipeline that cannot wait takes all that comes out of it."""
    claims = Claims(kind(EIEConfig(**SMALL | sizes, runahead=runahead)))
    queues = claims.inside(Queue)
    assert queues
    for k, queue in enumerate(queues):
        claims.claim(f"queue {k} takes what it is offered", queue.i.ready, when=queue.i.valid)
        claims.claim(f"queue {k} fills", 1, when=queue.level == runahead + 1)
    return claims


POINTERS = {"counts": False, "drops_empty": False}
PADDING = {"escapes": False}


@pytest.mark.parametrize(("kind", "runahead", "sizes"), [
    (ActivationUnit, 2, {}), (ActivationUnit, 15, {}),
    (PointerRead, 15, {}), (PointerRead, 2, POINTERS), (PointerRead, 4, POINTERS),
    (SparseMatrixRead, 5, {}), (SparseMatrixRead, 2, PADDING), (SparseMatrixRead, 4, PADDING)])
def test_nothing_is_refused(kind, runahead, sizes):
    prove(takes_all(kind, runahead, **sizes))


@pytest.mark.parametrize(("old", "new"), [
    ("depth=ahead + 1", "depth=ahead"),
    ("self.stalled.eq(above)", "self.stalled.eq(0)"),
])
@pytest.mark.parametrize("kind", [ActivationUnit, PointerRead, SparseMatrixRead])
def test_a_fault_of_the_pipeline_refuses_something(monkeypatch, kind, old, new):
    monkeypatch.setattr(sys.modules[kind.__module__], "RunAhead", edited(RunAhead, (old, new)))
    with pytest.raises(Refuted, match="takes what it is offered"):
        prove(takes_all(kind, 3))


@pytest.mark.parametrize(("kind", "old", "new"), [
    (ActivationUnit, "stages.leaves(in_flight[latency])", "in_flight[latency]"),
    (PointerRead, "stages.leaves(valid[last])", "valid[last]"),
    (SparseMatrixRead, "stages.leaves(search.o.valid)", "search.o.valid"),
])
def test_a_fault_refuses_something(kind, old, new):
    with pytest.raises(Refuted, match="takes what it is offered"):
        prove(takes_all(edited(kind, (old, new)), 3))


def order(kind):
    """In the paper's mode, where empty columns are handed on, what enters the pointer read leaves
    it once and in order."""
    config = EIEConfig(**SMALL, runahead=2, counts=False, drops_empty=False)
    claims = Claims(dut := kind(config))
    room = kind.latency(config) + config.runahead
    inside = claims.follow(dut.i, dut.o, room, part=lowest)
    claims.stable(dut.o, part=lowest)
    claims.claim("busy", dut.busy, when=inside != 0)
    return claims


def lowest(item):
    """The lowest bit of the activation."""
    return item.value[0]


def test_pointer_read_keeps_order():
    prove(order(PointerRead))


@pytest.mark.parametrize(("old", "new"), [
    ("ready.eq(stages.enable)", "ready.eq(1)"),
    ("stages.step(self.i.payload.value, last)", "stages.step(self.i.payload.value, 1)"),
])
def test_pointer_read_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(order(edited(PointerRead, (old, new))))
