"""The accelerator's registers: what is where and stays there, the identity, and the interrupt."""

import itertools

import numpy as np
import pytest

from zeroskip.hw.bus import Status
from zeroskip.hw.eie.config import zeroskip
from zeroskip.hw.system.accelerator import Accelerator, register_map
from zeroskip.hw.system.config import VERSION, SystemConfig
from zeroskip.hw.system.corepage import item_words
from zeroskip.hw.system.registers import Access, Window
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.bench import checker, device, receive, send, simulate
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.engines.wire import Poll, Write

EIE = zeroskip(1, act_depth=4, bias_depth=4, weight_rows=4, pointers=32)
LARGE = zeroskip(8)
CORE = TensorCoreConfig()
SMALL = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2, activation_words=2,
                         patterns=("dense",))


def test_register_map():
    pages = register_map(SystemConfig((EIE, CORE, EIE)))
    assert [(page.name, page.base) for page in pages.values()] == [
        ("system", 0), ("eie", 0x1000), ("tensorcore", 0x2000), ("eie_1", 0x3000)]
    assert pages["system"].addresses == {
        "magic": 0, "version": 4, "digest_low": 8, "digest_high": 12, "reset": 16, "done": 20,
        "enable": 24}
    reset = pages["system"].items[4]
    assert [field.name for field in reset.fields] == ["eie", "tensorcore", "eie_1"]
    assert pages["tensorcore"].addresses == {
        "busy": 0x2000, "stats__clear": 0x2004, "stats__select": 0x2008, "stats__count": 0x200C,
        "commands": 0x2010, "weights": 0x2014, "channels": 0x2018, "activations": 0x201C,
        "outputs": 0x2020}
    eie = {item.name: item for item in pages["eie"].items}
    assert list(eie) == ["busy", "stats__pe", "stats__select", "stats__count", "load", "inputs",
                         "outputs"]
    assert (eie["busy"].access, eie["stats__select"].access, eie["stats__count"].access) == (
        Access.READ, Access.WRITE, Access.READ)
    assert (eie["stats__count"].width, eie["stats__select"].width) == (32, 4)
    assert all(isinstance(eie[name], Window) for name in ("load", "inputs", "outputs"))
    assert (eie["load"].direction, eie["outputs"].direction) == ("in", "out")


def test_words_of_items():
    assert item_words(EIE.component()) == {"load": 2, "inputs": 1, "outputs": 1}
    # Weights of 4 * 4 * (8 + 2) bits, activations of 4 * 8 * 8, outputs of 4 * 33.
    assert item_words(CORE.component()) == {
        "commands": 4, "weights": 5, "channels": 3, "activations": 8, "outputs": 5}


def test_a_core_stays_where_it_is():
    """Whatever the cores before it are, and whether there are any behind it."""
    for before, core, behind in itertools.product((EIE, LARGE, CORE), (EIE, LARGE, CORE, SMALL),
                                                  ((), (EIE,), (CORE, LARGE))):
        *_, alone = register_map(SystemConfig((core,))).values()
        page = [*register_map(SystemConfig((before, core, *behind))).values()][2]
        assert page.base == 0x2000
        assert page.items == alone.items
        assert {name: at - page.base for name, at in page.addresses.items()} == {
            name: at - 0x1000 for name, at in alone.addresses.items()}


async def request(ctx, dut, address, write=None):
    """Status and word of a read, or of a write."""
    await send(ctx, dut.bus.request, [{"address": address, "write": write is not None,
                                       "strobes": 15, "data": write or 0}])
    (response,) = await receive(ctx, dut.bus.response, 1)
    return Status(response["status"]), response["data"]


@pytest.mark.parametrize("cores", [(SMALL,), (SMALL, SMALL)], ids=len)
def test_identity(cores):
    system = SystemConfig(cores)
    dut, found = device(Accelerator, system), []

    async def bench(ctx):
        found.extend([await request(ctx, dut, address) for address in range(0, 16, 4)])
        assert {(await request(ctx, dut, address, 5))[0] for address in range(0, 16, 4)} == {
            Status.RANGE}

    simulate(dut, bench)
    digest = system.digest()
    assert found == [(Status.OK, word) for word in (
        int.from_bytes(b"ZSK1", "little"), VERSION, digest & 0xFFFFFFFF, digest >> 32)]


def test_interrupt_rises_when_a_run_ends_and_falls_when_it_is_told():
    """The array is not loaded: its first descriptor, zero, ends no network, so that its busy is
    ended by the reset."""
    dut = device(Accelerator, SystemConfig((EIE,)))
    pages = register_map(dut.system)
    at = pages["eie"].addresses | pages["system"].addresses

    async def access(ctx, name, write=None):
        status, word = await request(ctx, dut, at[name], write)
        assert status is Status.OK
        return word

    async def bench(ctx):
        while await access(ctx, "busy"):    # it clears its memories first
            pass
        await access(ctx, "done", 1)
        await access(ctx, "enable", 1)
        await access(ctx, "inputs", 1 << 16 | 5)        # the last of a vector
        while not await access(ctx, "busy"):
            pass
        assert not ctx.get(dut.irq)
        await access(ctx, "reset", 1)
        while await access(ctx, "busy"):
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
    """A GEMM of one output, 3 * 5 - 2 * 7 + 4, on the second of two cores."""
    dut, found = device(Accelerator, SystemConfig((SMALL, SMALL))), []
    at, words = register_map(dut.system)["tensorcore_1"].addresses, item_words(SMALL.component())
    schedule = Schedule.of(SMALL, "dense", 1, 2, 1)
    records = schedule.records(
        schedule.command(zero_point=0, relu=False, raw=True),
        schedule.weights(np.array([[3, -2]], np.int8), np.zeros((1, 0), np.uint8)),
        schedule.channels(np.array([4]), *(np.array([value]) for value in RAW)),
        schedule.operands(np.array([[5, 7]], np.int8)))

    async def access(ctx, name, write=None):
        """Again until a window that is busy is not."""
        status = Status.BUSY
        while status is Status.BUSY:
            status, word = await request(ctx, dut, at[name], write)
        assert status is Status.OK
        return word

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
        assert await request(ctx, dut, at["outputs"] - 0x1000) == (Status.BUSY, 0)

    simulate(dut, bench, deadline=5_000)
    outputs, saturated = schedule.outputs(np.array([found], np.uint32))
    assert (outputs.tolist(), saturated.tolist()) == ([[5]], [[False]])
