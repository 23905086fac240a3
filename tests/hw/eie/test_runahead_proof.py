"""Run-ahead, proved: no queue is offered what it refuses, whatever the inputs do."""

import pytest

from zeroskip.hw.eie.activation import ActivationUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.pointer import PointerRead
from zeroskip.hw.eie.spmat import SparseMatrixRead
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
    (SparseMatrixRead, 15, {}), (SparseMatrixRead, 2, PADDING), (SparseMatrixRead, 4, PADDING)])
def test_nothing_is_refused(kind, runahead, sizes):
    prove(takes_all(kind, runahead, **sizes))


@pytest.mark.parametrize(("kind", "old", "new"), [
    (ActivationUnit, "depth=config.runahead + 1", "depth=config.runahead"),
    (ActivationUnit, "under_way[-1] & ~stop", "under_way[-1]"),
    (PointerRead, "valid[-1] & ~stop", "valid[-1]"),
    (PointerRead, "stop.eq(jobs.level >= config", "stop.eq(jobs.level > config"),
    (SparseMatrixRead, "depth=ahead + 1", "depth=ahead"),
    (SparseMatrixRead, "stop.eq(parts.level >= ahead)", "stop.eq(parts.level > ahead)"),
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
    ("go.eq(jobs.level < config", "go.eq(jobs.level <= config"),
    ("value, under_way, go", "value, under_way"),
])
def test_pointer_read_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(order(edited(PointerRead, (old, new))))
