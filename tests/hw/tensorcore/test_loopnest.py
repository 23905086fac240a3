"""The loop nest: blocks, panels and chunks in order, with the edges that are left."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.loopnest import LoopNest
from zeroskip.sim.bench import Stalls, device, simulate


@pytest.fixture(scope="session")
def iterate():
    """``iterate(sizes...)``: (columns, rows, chunk edges, last panel) of every turn of each of
    several GEMMs, one after another on one component; ``stalls`` pause between the turns."""
    def iterate(*gemms, stalls=None):
        dut, found = device(LoopNest, gemms[0].config), []

        async def bench(ctx):
            for sizes in gemms:
                turns = []
                assert not ctx.get(dut.busy)
                await sizes.start(ctx, dut)
                while ctx.get(dut.busy):
                    while not ctx.get(dut.active):      # for a cycle behind a short turn
                        await ctx.tick()
                    for _ in range(stalls.cycles() if stalls else 0):
                        await ctx.tick()
                    turns.append((ctx.get(dut.columns), ctx.get(dut.rows),
                                  ctx.get(dut.first_chunk), ctx.get(dut.last_chunk),
                                  ctx.get(dut.last_panel)))
                    ctx.set(dut.next, 1)
                    await ctx.tick()
                    ctx.set(dut.next, 0)
                found.append(turns)

        simulate(dut, bench)
        return found
    return iterate


def turns(sizes):
    return [(columns, rows, chunk == 0, chunk == sizes.chunks - 1, last_panel)
            for columns, rows, chunk, last_panel in sizes.turns()]


CONFIG = TensorCoreConfig(rows=3, columns=2)
ONE = TensorCoreConfig(rows=1, columns=1)
NUMBERS = st.tuples(st.integers(1, 10), st.integers(1, 13), st.integers(1, 4), st.integers(1, 3))


@given(numbers=st.lists(NUMBERS, min_size=1, max_size=3), pause=st.sampled_from([0.0, 0.5]))
@example(numbers=[(1, 1, 1, 1)] * 3, pause=0.0)
@example(numbers=[(3, 8, 2, 1), (4, 9, 2, 1)], pause=0.0)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_every_turn_in_order(iterate, gemm_sizes, numbers, pause):
    for config in (CONFIG, ONE):
        gemms = [gemm_sizes(config, rows, columns, block * config.columns, chunks)
                 for rows, columns, block, chunks in numbers]
        assert iterate(*gemms, stalls=Stalls(1, pause)) == [turns(sizes) for sizes in gemms]


@pytest.mark.parametrize("config", [CONFIG, ONE], ids=["three by two", "one by one"])
@given(numbers=NUMBERS, pause=st.sampled_from([0.0, 0.5]))
@example(numbers=(1, 13, 4, 2), pause=0.0)
@settings(deadline=None, derandomize=True, max_examples=20)
def test_the_last_tile_of_every_block(gemm_sizes, config, numbers, pause):
    rows, columns, block, chunks = numbers
    sizes = gemm_sizes(config, rows, columns, block * config.columns, chunks)
    dut, stalls, found = device(LoopNest, config), Stalls(1, pause), []

    async def bench(ctx):
        await sizes.start(ctx, dut)
        for block_columns, *_ in sizes.turns():
            while not ctx.get(dut.active):
                await ctx.tick()
            tiles = -(-block_columns // config.columns)
            for tile in range(tiles):
                for _ in range(stalls.cycles()):
                    await ctx.tick()
                found.append((tiles, tile, ctx.get(dut.last_tile)))
                ctx.set(dut.tile, 1)
                ctx.set(dut.next, tile == tiles - 1)
                await ctx.tick()
                ctx.set(dut.tile, 0)
                ctx.set(dut.next, 0)

    simulate(dut, bench)
    assert found == [(tiles, tile, tile == tiles - 1) for tiles, tile, _ in found]


@pytest.mark.parametrize(("numbers", "expected"), [
    ((1, 1, 2, 1), [(1, 1, 1, 1, 1)]),
    ((3, 2, 2, 1), [(2, 3, 1, 1, 1)]),
    ((4, 2, 2, 1), [(2, 3, 1, 1, 0), (2, 1, 1, 1, 1)]),
    ((3, 5, 4, 1), [(4, 3, 1, 1, 1), (1, 3, 1, 1, 1)]),
    ((3, 2, 2, 3), [(2, 3, 1, 0, 1), (2, 3, 0, 0, 1), (2, 3, 0, 1, 1)]),
    ((5, 3, 2, 2), [(2, 3, 1, 0, 0), (2, 3, 0, 1, 0), (2, 2, 1, 0, 1), (2, 2, 0, 1, 1),
                    (1, 3, 1, 0, 0), (1, 3, 0, 1, 0), (1, 2, 1, 0, 1), (1, 2, 0, 1, 1)]),
], ids=["one of each", "all full", "a short last panel", "a short last block", "chunks",
        "all together"])
def test_by_name(iterate, gemm_sizes, numbers, expected):
    sizes = gemm_sizes(CONFIG, *numbers)
    assert iterate(sizes) == [expected] == [turns(sizes)]


def test_turns_of_two_cycles_follow_without_a_gap(gemm_sizes):
    """The first is there two cycles after the start, the others in the cycle after ``next``."""
    sizes, dut, rows = gemm_sizes(CONFIG, 8, 2, 2, 1), device(LoopNest, CONFIG), []

    async def bench(ctx):
        await sizes.start(ctx, dut)
        for _ in range(3):
            assert ctx.get(dut.active)
            rows.append(ctx.get(dut.rows))
            await ctx.tick()
            ctx.set(dut.next, 1)
            await ctx.tick()
            ctx.set(dut.next, 0)
        assert not ctx.get(dut.busy)

    simulate(dut, bench)
    assert rows == [3, 3, 2]


@pytest.mark.parametrize("sizes", [(0xFFFF, 1, 2, 1), (1, 0xFFFFFF, 0xFFFFF0, 1), (3, 2, 2, 255)],
                         ids=["rows", "columns", "chunks"])
def test_the_largest_sizes_of_a_command(gemm_sizes, sizes):
    """The first turns; all of the rows takes too long."""
    dut, found = device(LoopNest, CONFIG), []
    expected = turns(gemm_sizes(CONFIG, *sizes))

    async def bench(ctx):
        await gemm_sizes(CONFIG, *sizes).start(ctx, dut)
        for _ in expected[:300]:
            while not ctx.get(dut.active):
                await ctx.tick()
            found.append((ctx.get(dut.columns), ctx.get(dut.rows), ctx.get(dut.first_chunk),
                          ctx.get(dut.last_chunk), ctx.get(dut.last_panel)))
            ctx.set(dut.next, 1)
            await ctx.tick()
            ctx.set(dut.next, 0)

    simulate(dut, bench)
    assert found == expected[:300]
