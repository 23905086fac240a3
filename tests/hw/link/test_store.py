"""The store: a word comes a cycle after its address, and holds during a write."""

from zeroskip.fpga.area import synthesise
from zeroskip.hw.link.store import Store
from zeroskip.sim.bench import simulate


def test_read_is_one_cycle_later_and_holds_while_a_word_is_written(fill):
    dut = Store(8, depth=16)

    async def bench(ctx):
        await fill(ctx, dut.write, {k: 100 + k for k in range(16)})
        for address in (3, 15, 0):
            ctx.set(dut.address, address)
            await ctx.tick()
            assert ctx.get(dut.data) == 100 + address
        ctx.set(dut.address, 3)
        await fill(ctx, dut.write, {3: 7})
        assert ctx.get(dut.data) == 100
        await ctx.tick()
        assert ctx.get(dut.data) == 7

    simulate(dut, bench)


def test_block_ram_needs_no_logic_beside_it():
    cells = synthesise(Store(32, depth=512), "ecp5", soft=False)
    assert (cells.memories, cells.flip_flops) == (1, 0)
    assert cells.logic <= 1
