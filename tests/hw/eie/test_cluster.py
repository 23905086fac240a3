"""A cluster: who takes which loads and broadcasts, sums over its PEs, and what is added up."""

import pytest

from zeroskip.hw.eie import cluster
from zeroskip.hw.eie.activation import ActivationUnit
from zeroskip.hw.eie.cluster import Cluster
from zeroskip.hw.eie.config import BUSY_LATENCY, EIEConfig
from zeroskip.hw.eie.counters import PECounter
from zeroskip.hw.eie.layouts import LoadTarget, Phase
from zeroskip.sim.bench import Stalls, checker, device, receive, simulate

BORDERS, IDENTITY = 3, 1
GROUPS = pytest.mark.parametrize("groups", [1, 2, 4])
BOOK = [0, *range(1, 16)]


def sized(groups, **sizes):
    return EIEConfig(**{"pes": BORDERS * groups, "groups": groups, "queue_depth": 2,
                        "runahead": 4, "weight_rows": 8, "pointers": 16, "act_depth": 4,
                        "bias_depth": 16, "codebooks": 1, **sizes})


def number(group):
    """The PE's number, c + K * g."""
    return IDENTITY + BORDERS * group


class Bench:
    """Drives a cluster through a balanced layer of four bytes a column."""

    def __init__(self, ctx, dut):
        self.ctx, self.dut = ctx, dut
        ctx.set(dut.identity, IDENTITY)
        for group in range(dut.config.groups):
            ctx.set(dut.identities[group], number(group))
        self.order(stride=4, balanced=1)

    def order(self, **fields):
        for name, value in fields.items():
            self.ctx.set(self.dut.command[name], value)

    async def load(self, target, pe, words):
        for address, data in enumerate(words):
            self.ctx.set(self.dut.load.payload, {"target": target, "pe": pe, "address": address,
                                                 "data": data % (1 << 32)})
            self.ctx.set(self.dut.load.valid, 1)
            await self.ctx.tick()
        self.ctx.set(self.dut.load.valid, 0)

    async def load_columns(self, columns, biases=()):
        """The PE of group g gets the columns ``columns[g]``, lists of the codebook indices of its
        words; then come loads for all that are not in this cluster."""
        groups = self.dut.config.groups
        for group in range(groups):
            pe = number(group)
            await self.load(LoadTarget.CODEBOOK, pe, BOOK)
            await self.load(LoadTarget.WEIGHTS, pe, [
                sum(v << 8 * k for k, v in enumerate(column)) for column in columns[group]])
        await self.load(LoadTarget.BIASES, IDENTITY, biases)
        inside = {number(group) for group in range(groups)}
        for pe in range(BORDERS * groups):
            if pe not in inside:
                await self.load(LoadTarget.WEIGHTS, pe, [0x05050505] * 8)
                await self.load(LoadTarget.ACTIVATIONS, pe, [99] * 4)
            if pe != IDENTITY:
                await self.load(LoadTarget.BIASES, pe, [777] * 16)

    async def broadcast(self, works):
        """``works``: (group, column, value), one a cycle; then until no PE is busy."""
        for group, column, value in works:
            self.ctx.set(self.dut.i[group].payload, {"place": 4 * column, "value": value})
            self.ctx.set(self.dut.i[group].valid, 1)
            await self.ctx.tick()
            self.ctx.set(self.dut.i[group].valid, 0)
        await self.ctx.tick().repeat(2 + BUSY_LATENCY)
        while self.ctx.get(self.dut.busy):
            await self.ctx.tick()
        # Central control hears of it later, and answers in the next cycle.
        await self.ctx.tick().repeat(self.dut.config.broadcast_latency + 1)

    async def outputs(self, count, **reading):
        """Emits slots 0 to ``count`` - 1 of the sums."""
        limit = IDENTITY + BORDERS * (count - 1) + 1
        self.ctx.set(self.dut.command.reading, reading)
        self.order(role=1, scan=1, begin=1, emit=1, clear=1, limit=limit)
        await self.ctx.tick()
        self.order(scan=0)
        groups = self.dut.config.groups
        out = []
        for slot in range(count):
            out += await receive(self.ctx, self.dut.found[slot % groups], 1, Stalls(slot, 0.3))
        assert [item["index"] for item in out] == [IDENTITY + BORDERS * t for t in range(count)]
        return [item["value"] for item in out]

    async def counts(self, which):
        self.ctx.set(self.dut.select, which)
        await self.ctx.tick().repeat(2)
        return [self.ctx.get(count) for count in self.dut.counts]


def run(config, script, background=lambda dut: [], *, dut=None):
    dut = dut or device(Cluster, config)
    simulate(dut, lambda ctx: script(Bench(ctx, dut)),
             background=[*map(checker, dut.found), *background(dut)], deadline=3000)


def columns_of(groups):
    """Two columns of four words in each PE, all different."""
    return [[[1 + g, 5, 2, 3], [7, 1 + g, 1, 9 - g]] for g in range(groups)]


def sums_of(columns, works):
    """The words of each PE, when ``works`` went to the groups."""
    return [[sum(columns[g][j][word] * value for group, j, value in works if group == g)
             for word in range(4)] for g in range(len(columns))]


@GROUPS
def test_a_plain_layer_has_its_words_in_turn_in_the_pes(groups):
    columns = columns_of(groups)
    works = [(g, j, 10 * j - 3) for j in (0, 1, 1) for g in range(groups)]
    words, out = sums_of(columns, works), []

    async def script(bench):
        await bench.load_columns(columns, [100 * t for t in range(16)])
        await bench.broadcast(works)
        out.extend(await bench.outputs(4 * groups, bias=0, shift=1))

    run(sized(groups), script)
    assert out == [(words[t % groups][t // groups] + 100 * t) >> 1 for t in range(4 * groups)]


@GROUPS
def test_a_grouped_layer_is_the_sum_over_the_pes(groups):
    columns = columns_of(groups)
    works = [(g, g % 2, 3 * g + 1) for g in range(groups)]
    words, out = sums_of(columns, works), []

    async def script(bench):
        await bench.load_columns(columns, [5, *range(0, 50, 10)])
        await bench.broadcast(works)
        out.extend(await bench.outputs(4, bias=2, summed=1))
        out.extend(await bench.outputs(4, raw=1, summed=1))

    run(sized(groups), script)
    assert out == [*(sum(each[t] for each in words) + 10 * (t + 1) for t in range(4)),
                   *[0] * 4], "summed once, and then cleared in every PE"


def test_each_group_tells_that_it_is_full_and_any_that_it_is_busy(watch):
    log = []

    async def script(bench):
        await bench.load_columns([[[1] * 4]] * 4)
        await bench.broadcast([(2, 0, 1)] * 50)

    # The queue has slots for all that is sent until a full queue is seen fifty cycles later.
    run(sized(4, broadcast_latency=25), script, lambda dut: [
        watch(log, dut.full, dut.busy, *(port.valid for port in dut.i))])
    assert {full for full, *_ in log} == {0b0000, 0b0100}
    assert all(busy for full, busy, *_ in log if full)
    assert log[-1][1] == 0


@GROUPS
def test_counters_of_each_pe_and_saturated_outputs_in_the_first(groups):
    columns, seen = [[[15, 15, 15, 15], [1, 0, 0, 0]] for _ in range(groups)], {}

    async def script(bench):
        await bench.load_columns(columns)
        bench.order(computing=1, phase=Phase.FILL)
        await bench.broadcast([(g, 0, 32767) for g in range(groups)])
        await bench.broadcast([(groups - 1, 1, 1)])
        bench.order(computing=0)
        await bench.outputs(4 * groups, shift=0)
        for which in PECounter:
            seen[which] = await bench.counts(which)
        bench.ctx.set(bench.dut.clear_counters, 1)
        await bench.ctx.tick()
        bench.ctx.set(bench.dut.clear_counters, 0)
        await bench.ctx.tick()
        assert {tuple(await bench.counts(which)) for which in PECounter} == {(0,) * groups}

    run(sized(groups), script)
    assert seen[PECounter.USEFUL] == [4] * (groups - 1) + [5]
    assert seen[PECounter.SATURATED] == [4 * groups] + [0] * (groups - 1)
    assert seen[PECounter.ROW_READS] == [1] * groups


def test_found_activations_of_each_group_until_scanning_ends(watch):
    log, found = [], []

    async def script(bench):
        for group in range(2):
            await bench.load(LoadTarget.ACTIVATIONS, number(group), [3, 0, -5, group])
        bench.ctx.set(bench.dut.command.reading, {"raw": 1})
        bench.order(scan=1, begin=1, grouped=1, limit=24)
        await bench.ctx.tick()
        bench.order(scan=0)
        for group, count in enumerate((2, 3)):
            found.append(await receive(bench.ctx, bench.dut.found[group], count, Stalls(1, 0.5)))

    run(sized(2), script, lambda dut: [watch(log, dut.scanning)])
    assert found == [[{"index": 1, "column": 1, "value": 3}, {"index": 13, "column": 7,
                                                              "value": -5}],
                     [{"index": 4, "column": 1, "value": 3}, {"index": 16, "column": 7,
                                                              "value": -5},
                      {"index": 22, "column": 10, "value": 1}]]
    assert log[-1] == (0,)
    assert (1,) in log


@GROUPS
def test_a_search_that_stalls_finds_the_same(monkeypatch, groups):
    """The words stall in the PEs with the search that reads them."""
    units, went, found = [], [], [[] for _ in range(groups)]

    class Seen(ActivationUnit):
        def __init__(self, config):
            super().__init__(config)
            units.append(self)

    async def watch_go(ctx):
        async for *_, scanning, go in ctx.tick().sample(units[0].scanning, units[0].enable):
            went.extend([go] * scanning)

    monkeypatch.setattr(cluster, "ActivationUnit", Seen)
    words = [[1 + 5 * k * k + g for k in range(32)] for g in range(groups)]

    async def script(bench):
        for group in range(groups):
            await bench.load(LoadTarget.ACTIVATIONS, number(group), words[group])
        bench.ctx.set(bench.dut.command.reading, {"raw": 1})
        bench.order(scan=1, begin=1, limit=BORDERS * 32 * groups)
        await bench.ctx.tick()
        bench.order(scan=0)
        for k in range(32):
            for group in range(groups):
                found[group] += await receive(bench.ctx, bench.dut.found[group], 1,
                                              Stalls(k, 0.9))

    config = sized(groups, act_depth=32, runahead=2)
    run(config, script, lambda dut: [watch_go], dut=Cluster(config))
    assert [[item["value"] for item in each] for each in found] == words
    assert went.count(0) > len(went) / 3
