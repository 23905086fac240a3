"""Amaranth's simulator behind the interface of the compiled ones: the same items in the same
cycles, and state that stays from call to call."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import Queue
from zeroskip.sim import cxxrtl
from zeroskip.sim.amaranth_model import KEPT, AmaranthModel, simulator

WIDTH = 70
"""Bits of the queue's payload: three words."""


class Sums(wiring.Component):
    """Adds up what comes in; every third sum leaves, some cycles later."""

    i: In(stream.Signature(data.StructLayout({"low": 4, "value": 29})))
    o: Out(stream.Signature(48))
    step: In(8)
    port: Out(wiring.Signature({"count": Out(3), "negative": Out(data.ArrayLayout(4, 1))}))

    def elaborate(self, platform):
        m = Module()
        count, wait, full = Signal(2), Signal(3), Signal()
        m.d.comb += [self.i.ready.eq(~full), self.o.valid.eq(full & (wait == 5)),
                     self.port.count.eq(count)]
        with m.If(full & (wait != 5)):
            m.d.sync += wait.eq(wait + 1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.o.payload.eq(self.o.payload + self.i.payload.value + self.step),
                         count.eq(count + 1), full.eq(count == 2), wait.eq(0)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [full.eq(0), count.eq(0)]
        return m


def sums(values):
    """Payloads of ``Sums.i``."""
    payloads = [int(value) << 4 for value in values]
    return np.array([[p & 0xFFFFFFFF, p >> 32] for p in payloads], np.uint32)


def queue():
    return AmaranthModel(Queue(WIDTH, depth=4))


def items(count, seed=0):
    payloads = np.random.default_rng(seed).integers(0, 1 << 32, (count, 3), dtype=np.uint32)
    payloads[:, 2] &= (1 << WIDTH - 64) - 1
    return payloads


def test_what_is_sent_comes_out():
    payloads = items(20)
    found, cycles = queue().run({"i": payloads}, {"o": 20})["o"]
    assert (found.dtype, cycles.dtype) == (np.uint32, np.uint64)
    np.testing.assert_array_equal(found, payloads)
    np.testing.assert_array_equal(cycles, np.arange(20) + cycles[0])


def test_state_stays_from_call_to_call():
    model, payloads = queue(), items(4)
    assert model.run({"i": payloads}, {}) == {}
    assert model.peek("level") == 4
    first, _ = model.run({}, {"o": 1})["o"]
    model.tick(7)
    rest, _ = model.run({}, {"o": 3})["o"]
    np.testing.assert_array_equal(np.concatenate([first, rest]), payloads)
    assert model.peek("level") == 0


def test_nothing_to_do():
    model = queue()
    found, cycles = model.run({"i": items(0)}, {"o": 0})["o"]
    assert (found.shape, cycles.shape) == ((0, 3), (0,))
    assert model.peek("level") == 0


def test_items_and_cycles_of_the_compiled_simulation(tmp_path, monkeypatch):
    """Over several calls, with a pause and a changed input between."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    values = np.random.default_rng(1).integers(0, 1 << 29, 30)
    found = []
    for model in (AmaranthModel(Sums()), cxxrtl.Model(cxxrtl.build(Sums, "sums", ""))):
        runs = [model.run({"i": sums(values[:15])}, {"o": 5})["o"]]
        model.tick(4)
        model.poke("step", 200)
        runs += [model.run({"i": sums(values[15 + at:18 + at])}, {"o": 1})["o"]
                 for at in range(0, 15, 3)]
        found.append((runs, model.peek("port__count"), model.peek("i__ready")))
    (ours, *ports), (expected, *expected_ports) = found
    assert ports == expected_ports
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    last = int(ours[-1][0][0, 0]) | int(ours[-1][0][0, 1]) << 32
    assert last == int(values.sum()) + 15 * 200


def test_poke_and_peek():
    model = AmaranthModel(Sums())
    model.poke("step", 9)
    model.run({"i": sums([1, 2, 3])}, {})
    assert model.peek("step") == 9
    assert model.peek("port__count") == 3
    model.tick(5)
    assert model.peek("o__payload") == 6 + 27
    assert model.peek("o__valid") == 1


def test_a_silent_stream_ends_in_a_timeout_that_names_it():
    model = queue()
    with pytest.raises(TimeoutError, match="'o' moved 2 of 3 items, then nothing happened for 50"):
        model.run({"i": items(2)}, {"o": 3}, patience=50)


def test_a_full_device_ends_in_a_timeout_that_names_the_sender():
    with pytest.raises(TimeoutError, match="'i' moved 4 of 6 items"):
        queue().run({"i": items(6)}, {}, patience=50)


def test_items_of_another_width():
    with pytest.raises(ValueError, match=r"items for 'i' must be 3 words wide, not \(2,\)"):
        queue().run({"i": items(2)[:, :2]}, {})


@pytest.mark.parametrize("call", [
    lambda model: model.peek("other"), lambda model: model.poke("other", 1),
    lambda model: model.run({}, {"other": 1})])
def test_unknown_names(call):
    with pytest.raises(KeyError, match="no object 'other"):
        call(queue())


def test_a_reset_leaves_nothing_behind():
    model, values = AmaranthModel(Sums()), np.arange(3, 12)
    runs = []
    for _ in range(2):
        model.poke("step", 7)
        payloads, cycles = model.run({"i": sums(values)}, {"o": 2})["o"]
        runs.append((payloads.tolist(), cycles.tolist(), model.peek("o__payload")))
        with pytest.raises(TimeoutError):
            model.run({}, {"o": 9}, patience=20)
        model.reset()
        assert model.peek("o__payload") == model.peek("port__count") == model.peek("step") == 0
    assert runs[0] == runs[1]


def test_a_model_is_made_once_a_key():
    make, made = simulator(), []

    def component():
        made.append(Queue(WIDTH, depth=4))
        return made[-1]
    first = make(component, "queue", "a key of this test")
    first.run({"i": items(3)}, {})
    assert make(component, "queue", "a key of this test") is first
    assert first.peek("level") == 0
    assert make(component, "queue", "another key") is not first
    for key in range(KEPT):
        make(component, "another", str(key))
    assert make(component, "queue", "a key of this test") is not first
    assert len(made) == 3 + KEPT
