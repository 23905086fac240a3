"""The accelerator's registers: what is where, and the interrupt."""

import numpy as np

from zeroskip.hw.bus import Status
from zeroskip.hw.eie.config import zeroskip
from zeroskip.hw.system.accelerator import Accelerator, components, item_words, register_map
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.system.registers import Access, Register, Window, addresses
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.bench import checker, receive, send, simulate
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.engines.wire import Poll, Write

EIE = zeroskip(1, act_depth=4, bias_depth=4, weight_rows=4, pointers=32)
CORE = TensorCoreConfig()


def test_register_map():
    built = components(SystemConfig((EIE, CORE)))
    items = {item.name: item for item in register_map(built)}
    assert list(items)[:3] == ["reset", "done", "enable"]
    assert [field.name for field in items["reset"].fields] == ["eie", "tensorcore"]
    assert isinstance(items["eie_load"], Window)
    assert items["eie_load"].direction == "in"
    assert items["tensorcore_outputs"].direction == "out"
    assert items["eie_busy"].access is Access.READ
    assert items["eie_stats__select"].access is Access.WRITE
    assert items["tensorcore_stats__count"].access is Access.READ
    assert items["tensorcore_stats__count"].width == 32
    assert all(isinstance(item, Register | Window) for item in items.values())
    assert item_words(built["eie"]) == {"load": 2, "inputs": 1, "outputs": 1}
    # Weights of 4 * 4 * (8 + 2) bits, activations of 4 * 8 * 8, outputs of 4 * 33.
    assert item_words(built["tensorcore"]) == {
        "commands": 4, "weights": 5, "channels": 3, "activations": 8, "outputs": 5}


def test_one_core_alone():
    names = [item.name for item in register_map(components(SystemConfig((CORE,))))]
    assert not any(name.startswith("eie") for name in names)


def test_interrupt_rises_when_a_run_ends_and_falls_when_it_is_told():
    """The array is not loaded: its first descriptor, zero, ends no network, so that its busy is
    ended by the reset."""
    dut = Accelerator(SystemConfig((EIE,)))
    at = addresses(register_map(dut.cores))

    async def access(ctx, name, write=None):
        request = {"address": at[name], "write": write is not None, "data": write or 0}
        await send(ctx, dut.bus.request, [request])
        (response,) = await receive(ctx, dut.bus.response, 1)
        assert Status(response["status"]) is Status.OK
        return response["data"]

    async def bench(ctx):
        while await access(ctx, "eie_busy"):    # it clears its memories first
            pass
        await access(ctx, "done", 1)
        await access(ctx, "enable", 1)
        await access(ctx, "eie_inputs", 1 << 16 | 5)        # the last of a vector
        while not await access(ctx, "eie_busy"):
            pass
        assert not ctx.get(dut.irq)
        await access(ctx, "reset", 1)
        while await access(ctx, "eie_busy"):
            pass
        assert await access(ctx, "done") == 1
        assert ctx.get(dut.irq)
        await access(ctx, "enable", 0)
        assert not ctx.get(dut.irq)
        await access(ctx, "enable", 1)
        assert ctx.get(dut.irq)
        await access(ctx, "done", 1)
        assert await access(ctx, "done") == 0
        assert not ctx.get(dut.irq)

    simulate(dut, bench, background=[checker(dut.bus.response, "response")])


def test_words_pass_the_windows_of_a_core():
    """A GEMM of one output: 3 * 5 - 2 * 7 + 4."""
    config = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2, activation_words=2,
                              patterns=("dense",))
    dut, found = Accelerator(SystemConfig((config,))), []
    at, words = addresses(register_map(dut.cores)), item_words(dut.cores["tensorcore"])
    schedule = Schedule.of(config, "dense", 1, 2, 1)
    records = schedule.records(
        schedule.command(zero_point=0, relu=False, raw=True),
        schedule.weights(np.array([[3, -2]], np.int8), np.zeros((1, 0), np.uint8)),
        schedule.channels(np.array([4]), *(np.array([value]) for value in RAW)),
        schedule.operands(np.array([[5, 7]], np.int8)))

    async def access(ctx, name, write=None):
        """Again until a window that is busy is not."""
        status = Status.BUSY
        while status is Status.BUSY:
            await send(ctx, dut.bus.request, [{
                "address": at[f"tensorcore_{name}"], "write": write is not None,
                "data": write or 0}])
            (response,) = await receive(ctx, dut.bus.response, 1)
            status = Status(response["status"])
        assert status is Status.OK
        return response["data"]

    async def bench(ctx):
        for record in records:
            if isinstance(record, Write):
                for word in record.items.ravel().tolist():
                    await access(ctx, record.port, word)
            elif isinstance(record, Poll):
                while await access(ctx, record.port) != record.value:
                    pass
            else:
                found.extend([await access(ctx, record.port)
                              for _ in range(record.items * words[record.port])])

    simulate(dut, bench, deadline=5_000)
    outputs, saturated = schedule.outputs(np.array([found], np.uint32))
    assert (outputs.tolist(), saturated.tolist()) == ([[5]], [[False]])
