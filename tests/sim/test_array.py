"""The whole array against the integer reference: edge cases by name, and random machines
under random stalls."""

import os
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.counters import PECounter
from zeroskip.hw.eie.layouts import (
    LoadTarget,
    descriptor_layout,
    descriptor_stride,
    descriptor_words,
)
from zeroskip.sim.amaranth_model import AmaranthModel
from zeroskip.sim.bench import Stalls, checker, receive, send, simulate
from zeroskip.sim.cases import fixed_layer, make_case, random_layers
from zeroskip.sw.engines.eie import host as eie_host
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.engines.eie.records import load_words
from zeroskip.sw.errors import BadInput
from zeroskip.sw.runtime import backends

REGRESSION = bool(os.environ.get("ZEROSKIP_REGRESSION"))
REASONS = ("useful", "padding", "empty", "fill", "full", "tail")
"""Counters of a PE, one of which counts in each computing cycle."""


def assert_exact(case):
    """The array's outputs equal the reference, and its counters account for every cycle."""
    result = backends.rtl("python").run(case.image, case.inputs)
    for ours, expected in zip(result.outputs, case.expected, strict=True):
        np.testing.assert_array_equal(ours, expected)
    statistics = result.statistics
    assert {sum(each) for each in zip(*(statistics.pe[name] for name in REASONS), strict=True)
            } == {statistics.cycles}
    return statistics


def column_with_gap(gap):
    """One PE, one column: an entry, ``gap`` zeros, another entry."""
    indices = np.zeros((gap + 2, 1), np.uint8)
    indices[[0, -1], 0] = 3, 5
    return fixed_layer(indices)


@pytest.mark.parametrize(("gap", "padding", "escapes"), [
    (15, 0, False), (16, 1, False), (31, 1, False), (32, 2, False),
    (15, 0, True), (16, 0, True), (31, 0, True), (32, 0, True), (271, 0, True), (272, 1, True)])
def test_gaps(gap, padding, escapes):
    case = make_case([column_with_gap(gap)], [7], pes=1, escapes=escapes)
    statistics = assert_exact(case)
    assert statistics.pe["padding"].tolist() == [padding]
    assert statistics.pe["useful"].tolist() == [2]


def test_a_column_with_one_entry():
    indices = np.zeros((9, 5), np.uint8)
    indices[4, 2] = 7
    assert_exact(make_case([fixed_layer(indices)], [1, 2, 3, 4, 5], pes=2))


def test_consecutive_empty_columns():
    indices = np.zeros((8, 40), np.uint8)
    indices[:, [0, 39]] = 9
    statistics = assert_exact(make_case([fixed_layer(indices)], np.arange(1, 41)))
    assert statistics.control["broadcasts"] == 40


@pytest.mark.parametrize("drops_empty", [False, True])
@pytest.mark.parametrize("counts", [False, True])
def test_empty_columns_between_full_ones(drops_empty, counts):
    indices = np.zeros((8, 60), np.uint8)
    indices[:, ::7] = 9
    statistics = assert_exact(make_case([fixed_layer(indices)], np.arange(1, 61),
                                        drops_empty=drops_empty, counts=counts))
    assert statistics.pe["useful"].tolist() == [2 * 9] * 4


@pytest.mark.parametrize("nonzeros", [15, 16, 255, 256])
def test_counts_of_one_two_and_four_nibbles(nonzeros):
    indices = np.zeros((300, 20), np.uint8)
    indices[:nonzeros, 7] = 3
    indices[5, ::3] = 2
    case = make_case([fixed_layer(indices)], np.arange(1, 21), pes=1)
    assert case.image.layers[0].stride == (1 if nonzeros < 16 else 2 if nonzeros < 256 else 4)
    assert_exact(case)


@pytest.mark.parametrize(("pes", "groups"), [(2, 2), (4, 4)])
def test_column_groups(pes, groups):
    """Plain and grouped layers in turn: the sums of a cluster are added when they are read."""
    rng = np.random.default_rng(pes)
    layers = random_layers(rng, (70, 40, 90, 30, 8), 0.05)
    layers[1] = fixed_layer(rng.integers(0, 16, (90, 40)), "dense", activation="relu", shift=8)
    case = make_case(layers, rng.integers(-99, 99, (3, 70)), pes=pes, groups=groups)
    assert {layer.grouped for layer in case.image.layers} == {0, 1}
    assert_exact(case)


@pytest.mark.parametrize("rows", [8, 64])
def test_a_bank_balanced_layer_needs_no_pointers(rows):
    """Three entries per PE and column, in banks of 2 rows and of 16 or more."""
    rng = np.random.default_rng(rows)
    banks = rows // 4
    indices = np.zeros((4, banks, 50), np.uint8)
    for pe, column in np.ndindex(4, 50):
        kept = rng.choice(banks, min(3, banks) if banks > 2 else 1, replace=False)
        indices[pe, kept, column] = rng.integers(1, 16, len(kept))
    matrix = indices.transpose(1, 0, 2).reshape(rows, 50)
    case = make_case([fixed_layer(matrix)], rng.integers(-9, 9, (2, 50)))
    assert case.image.layers[0].balanced
    assert case.image.storage()["pointers"] == 0
    assert_exact(case)


@pytest.mark.parametrize("balance", [False, True])
def test_rows_that_are_assigned_come_out_in_their_order(balance):
    rng = np.random.default_rng(8)
    layers = random_layers(rng, (40, 23, 31, 10), 0.3)
    indices = layers[0].indices.copy()
    indices[::4] = 0                # PE 0 would have no work
    layers[0] = replace(layers[0], indices=indices)
    case = make_case(layers, rng.integers(-9, 9, (2, 40)), balance=balance)
    assert_exact(case)


def test_an_all_zero_matrix():
    layer = fixed_layer(np.zeros((6, 7)), bias=np.arange(-3, 3))
    assert_exact(make_case([layer, layer_after(6)], np.arange(1, 8)))


def layer_after(inputs):
    return fixed_layer(np.full((3, inputs), 4), "after")


def test_an_all_zero_input():
    layer = fixed_layer(np.full((6, 7), 5), bias=np.arange(-3, 3))
    statistics = assert_exact(make_case([layer, layer_after(6)], np.zeros(7)))
    assert statistics.pe["useful"].sum() == 3 * 5     # five biases are not zero


def test_negative_activations_are_not_skipped():
    layer = fixed_layer(np.full((6, 7), 5))
    statistics = assert_exact(make_case([layer], [-1, -2, 0, -32768, 3, 0, -7]))
    assert statistics.pe["useful"].sum() == 6 * 5


def test_a_full_queue_stops_the_broadcast():
    indices = np.zeros((64, 40), np.uint8)
    indices[::4] = 6            # PE 0 owns every entry
    statistics = assert_exact(make_case([fixed_layer(indices)], np.arange(1, 41), balance=False,
                                        queue_depth=2, runahead=2))
    assert statistics.control["held"] > 0
    assert statistics.pe["full"][1:].min() > 0


def test_back_to_back_updates_of_one_accumulator():
    indices = np.zeros((4, 30), np.uint8)
    indices[0] = np.arange(30) % 15 + 1
    assert_exact(make_case([fixed_layer(indices)], np.arange(-15, 15) * 100))


@pytest.mark.parametrize("distance", range(1, 7))
def test_updates_of_one_accumulator_at_every_distance(distance):
    indices = np.zeros((distance, 30), np.uint8)
    indices[:] = np.arange(30) % 15 + 1
    assert_exact(make_case([fixed_layer(indices)], np.arange(-15, 15) * 100, pes=1))


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 13])
def test_rows_not_a_multiple_of_the_pes(rows):
    rng = np.random.default_rng(rows)
    assert_exact(make_case(random_layers(rng, (10, rows, 6), 0.7), rng.integers(-9, 9, (2, 10))))


def test_an_input_longer_than_one_activation_block():
    rng = np.random.default_rng(2)
    case = make_case(random_layers(rng, (50, 20, 30), 0.4), rng.integers(-9, 9, (3, 50)), block=3)
    assert len(case.image.segments) == 5 + 2
    assert_exact(case)


def test_more_rows_than_accumulators():
    rng = np.random.default_rng(3)
    case = make_case(random_layers(rng, (20, 50, 30), 0.4), rng.integers(-9, 9, (3, 20)),
                     acc_depth=4)
    assert len(case.image.segments) == 4 + 2
    assert_exact(case)


def test_outputs_saturate_at_both_ends():
    layer = fixed_layer([[15], [14], [1]], bias=[40000, -40000, 0])
    case = make_case([layer], [[100], [-100]])
    statistics = assert_exact(case)
    assert statistics.pe["saturated"].sum() == 2
    assert case.expected[0].min() == -32768
    assert case.expected[0].max() == 32767


def test_the_largest_sums_an_accumulator_holds():
    layer = fixed_layer([[15, 15], [14, 14]], bias=[1 << 30, -(1 << 30)], shift=16)
    assert_exact(make_case([layer], [[32767, 32767], [-32768, -32768]]))


@pytest.mark.parametrize("latency", [0, 3])
def test_any_broadcast_latency(latency):
    rng = np.random.default_rng(4)
    case = make_case(random_layers(rng, (20, 13, 7), 0.5), rng.integers(-9, 9, (2, 20)), pes=3,
                     broadcast_latency=latency, queue_depth=1)
    assert_exact(case)


def test_an_array_without_counters_computes_the_same():
    rng = np.random.default_rng(5)
    case = make_case(random_layers(rng, (12, 9), 0.5), rng.integers(-9, 9, (2, 12)),
                     counters=False)
    result = backends.rtl("python").run(case.image, case.inputs)
    np.testing.assert_array_equal(result.outputs[0], case.expected[0])
    assert result.statistics is None


def test_the_next_program_on_an_array_counts_from_zero():
    rng = np.random.default_rng(9)
    case = make_case(random_layers(rng, (12, 9, 5), 0.5), rng.integers(-9, 9, (2, 12)))
    model = AmaranthModel(EIE(case.image.config))
    first, second = (eie_host.run(model, case.image, case.inputs).statistics for _ in range(2))
    assert first.pe["useful"].min() > 0
    assert second.as_json() == first.as_json()


@pytest.mark.parametrize(("groups", "latency"), [(1, 1), (2, 0), (2, 3)])
def test_a_layer_in_two_loads_of_weights(groups, latency):
    """Its weights do not fit the memory: those of the first columns are loaded, computed and paused
    behind, then those of the others take their place."""
    rng = np.random.default_rng(groups)
    layer = random_layers(rng, (24, 12), 0.4)[0]
    config = EIEConfig(pes=2, groups=groups, broadcast_latency=latency, weight_rows=6, act_depth=16,
                       pointers=64, runahead=3)
    with pytest.raises(BadInput, match="weight rows"):
        compile_layers((layer,), config, balance=False)
    halves = []
    for columns in (slice(0, 12), slice(12, 24)):
        indices = np.zeros_like(layer.indices)
        indices[:, columns] = layer.indices[:, columns]
        halves.append(compile_layers((replace(layer, indices=indices),), config, balance=False))
    first, second = halves
    case = make_case([layer], rng.integers(-200, 200, (2, 24)), balance=False)

    dut, outputs = EIE(config), []

    async def drive(ctx):
        for vector in case.inputs:
            await send(ctx, dut.load, as_descriptor(
                first, 0, swap=0, clear=0, outputs=0, last=0, pause=1), Stalls(1, 0.1))
            await send(ctx, dut.inputs, ({"value": int(value), "last": at == len(vector) - 1}
                                         for at, value in enumerate(vector)))
            await send(ctx, dut.load, [*as_descriptor(second, 1), {"target": LoadTarget.RESUME}])

    async def take(ctx):
        for _ in case.inputs:
            outputs.append(logical(second, 0, await receive(ctx, dut.outputs, 12, Stalls(2, 0.3))))

    simulate(dut, drive, take)
    assert outputs == case.expected[0].tolist()


def as_descriptor(image, number, **fields):
    """The load words of an image of one segment, with these fields, as descriptor ``number``."""
    (segment,), layout = image.segments, descriptor_layout(image.config)
    bits = layout.const({**asdict(segment), **fields}).as_bits()
    memories = [word for word in load_words(image) if word[0] != LoadTarget.DESCRIPTORS.value]
    words = [(LoadTarget.DESCRIPTORS.value, 0, descriptor_stride(image.config) * number + k,
              bits >> 32 * k & 0xFFFFFFFF) for k in range(descriptor_words(image.config))]
    return [dict(zip(("target", "pe", "address", "data"), map(int, word), strict=True))
            for word in [*memories, *words]]


@pytest.mark.parametrize("latency", [0, 2])
def test_counters_are_read_one_a_cycle(latency):
    """Each comes ``stats_latency`` cycles after its address, whatever is asked in between."""
    rng = np.random.default_rng(6)
    case = make_case(random_layers(rng, (20, 15), 0.5), rng.integers(1, 9, (1, 20)), pes=3,
                     broadcast_latency=latency)
    model, found = AmaranthModel(EIE(case.image.config)), []
    statistics = eie_host.run(model, case.image, case.inputs).statistics
    useful = statistics.pe["useful"].tolist()
    assert len(set(useful)) > 1
    model.poke("stats__select", PECounter.USEFUL.value)
    asked = [0, 1, 2, 0, 2, 1, 2, 2, 0]
    for cycle in range(len(asked) + case.image.config.stats_latency):
        model.poke("stats__pe", asked[min(cycle, len(asked) - 1)])
        if cycle >= case.image.config.stats_latency:
            found.append(model.peek("stats__count"))
        model.tick()
    assert found == [useful[pe] for pe in asked]


@st.composite
def machines(draw):
    """A machine, a network and inputs: N 1..16, depths, densities 0..1, sizes 1..300."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = draw(st.sampled_from([8, 40, 300])) if REGRESSION else 24
    sizes = draw(st.lists(st.integers(1, largest), min_size=2, max_size=3))
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    config = {
        "pes": groups * draw(st.integers(1, 16 // groups if REGRESSION else max(1, 6 // groups))),
        "groups": groups,
        "escapes": draw(st.booleans()),
        "drops_empty": draw(st.booleans()),
        "counts": draw(st.booleans()),
        "queue_depth": draw(st.integers(1, 32)),
        "runahead": draw(st.integers(2, 6)),
        "broadcast_latency": draw(st.integers(0, 3)),
        "acc_depth": draw(st.sampled_from([2, 7, 64, 256])),
        "block": draw(st.sampled_from([1, 4, 64])),
    }
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    inputs = rng.integers(-200, 200, (2, sizes[0])) * (rng.random((2, sizes[0])) < share)
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.4, 1.0]))
    stalls = draw(st.sampled_from([(0.0, 1), (0.3, 1), (0.9, 1), (0.5, 20)]))
    layers = random_layers(rng, sizes, density)
    return make_case(layers, inputs, draw(st.booleans()), **config), stalls


@settings(max_examples=200 if REGRESSION else 4, deadline=None, derandomize=True,
          phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(7200)
@given(machines())
def test_random_machines_under_random_stalls(machine):
    case, (fraction, burst) = machine
    dut = EIE(case.image.config)
    received = []

    async def drive(ctx):
        words = ({"target": int(t), "pe": int(p), "address": int(a), "data": int(d)}
                 for t, p, a, d in load_words(case.image))
        await send(ctx, dut.load, words, Stalls(1, min(fraction, 0.3), burst))
        for vector in case.inputs:
            await send(ctx, dut.inputs, (
                {"value": int(value), "last": at == len(vector) - 1}
                for at, value in enumerate(vector)), Stalls(2, fraction, burst))

    count = len(case.inputs) * sum(layer.slots for layer in case.image.layers)

    async def take(ctx):
        received.extend(await receive(ctx, dut.outputs, count, Stalls(3, fraction, burst)))

    transfers = []

    async def watch(ctx):
        async for *_, valid, ready in ctx.tick().sample(dut.outputs.valid, dut.outputs.ready):
            transfers.append(valid + ready if valid else 0)

    simulate(dut, drive, take, background=[checker(dut.outputs, "outputs"), watch],
             deadline=3_000_000)
    last = max(at for at, seen in enumerate(transfers) if seen == 2)
    assert transfers.count(2) == count
    assert not any(transfers[last + 1:]), "silence after the last output"
    items = iter(received)
    for image in range(len(case.inputs)):
        for layer, expected in enumerate(case.expected):
            outputs = [next(items) for _ in range(case.image.layers[layer].slots)]
            assert [item["last"] for item in outputs] == [0] * (len(outputs) - 1) + [1]
            assert logical(case.image, layer, outputs) == expected[image].tolist()


def logical(image, layer, outputs):
    """The values of a layer that left the array, in the network's order."""
    values = np.full((1, len(outputs)), 99999)
    for item in outputs:
        values[0, item["index"]] = item["value"]
    assert 99999 not in values
    return image.logical(layer, values)[0].tolist()


def test_reset_in_the_middle_leaves_nothing_behind(digits_like, run_seed):
    """Reset at random cycles of a run; the next run must be exact."""
    from amaranth.hdl import ResetInserter, Signal
    from amaranth.sim import Simulator

    reset = Signal()
    dut = EIE(digits_like.image.config)
    rng = np.random.default_rng(6 + run_seed)

    async def bench(ctx):
        words = [{"target": int(t), "pe": int(p), "address": int(a), "data": int(d)}
                 for t, p, a, d in load_words(digits_like.image)]
        await send(ctx, dut.load, words)
        vector = digits_like.inputs[0]
        items = [{"value": int(value), "last": at == len(vector) - 1}
                 for at, value in enumerate(vector)]
        for _ in range(20):
            await send(ctx, dut.inputs, items)
            await ctx.tick().repeat(int(rng.integers(1, 150)))
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
            await send(ctx, dut.inputs, items)
            image = digits_like.image
            for layer, expected in enumerate(digits_like.expected):
                outputs = await receive(ctx, dut.outputs, image.layers[layer].slots)
                assert logical(image, layer, outputs) == expected[0].tolist()

    simulator = Simulator(ResetInserter(reset)(dut))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
