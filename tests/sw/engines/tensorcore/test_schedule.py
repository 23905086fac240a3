"""What the host streams into a tensor core: it fits the core, and a core in plain numpy,
which reads the streams as the gateware's docstrings say, gets the product."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeroskip.hw.tensorcore import layouts
from zeroskip.hw.tensorcore.config import CONFIGS, SPEEDUP, TensorCoreConfig
from zeroskip.sw.engines.payload import unpack_fields
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.engines.wire import Poll, Read, Write, streams
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import nm

BUILDS = [("dense",), ("dense", "2:4"), ("dense", "1:4"), ("dense", "2:4", "1:4")]
TINY = TensorCoreConfig(rows=3, columns=2, products=2, weight_words=4, activation_words=6)


@st.composite
def problems(draw):
    """A configuration with small buffers, a pattern of it, and M, K, N."""
    patterns = draw(st.sampled_from(BUILDS))
    config = TensorCoreConfig(
        rows=draw(st.integers(1, 4)), columns=draw(st.integers(1, 4)),
        products=draw(st.sampled_from([2, 4, 8])), patterns=patterns,
        weight_words=draw(st.integers(max(2, SPEEDUP[patterns[-1]]), 9)),
        activation_words=draw(st.integers(2, 9)))
    return config, draw(st.sampled_from(patterns)), (
        draw(st.integers(1, 10)), draw(st.integers(1, 100)), draw(st.integers(1, 30)))


ODD = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=3, activation_words=5)


@given(problem=problems())
@example(problem=(ODD, "dense", (1, 12, 1)))        # 3 words hold no whole chunk of phases
@settings(deadline=None, derandomize=True, max_examples=300)
def test_every_gemm_fits_the_buffers(problem):
    config, pattern, (m, k, n) = problem
    schedule = Schedule.of(config, pattern, m, k, n)
    per_word = config.span // SPEEDUP[pattern]
    reach = schedule.steps * SPEEDUP[pattern] * config.products
    assert schedule.steps <= config.weight_words
    assert schedule.words == -(-schedule.steps // per_word)
    assert (schedule.chunks - 1) * reach < k <= schedule.chunks * reach
    assert schedule.block % config.columns == 0
    tiles = schedule.block // config.columns
    if schedule.chunks == 1:
        assert tiles * schedule.words <= config.activation_words
    else:
        assert tiles == 1
        assert schedule.words <= config.activation_words
        assert schedule.steps % per_word == 0, "each chunk starts with a whole word"
    for slices, size, most in ((schedule.blocks, n, schedule.block),
                               (schedule.panels, m, config.rows)):
        assert [at for each in slices for at in range(each.start, each.stop)] == list(range(size))
        assert all(each.stop - each.start == most for each in slices[:-1])
        assert 0 < slices[-1].stop - slices[-1].start <= most


@pytest.mark.parametrize(("k", "n", "expected"), [
    (1, 1, (1, 1, 1, 2)),
    (16, 2, (4, 4, 1, 2)),
    (17, 2, (3, 3, 2, 2)),
    (100, 9, (4, 4, 7, 2)),
    (4, 12, (1, 1, 1, 12)),
    (4, 13, (1, 1, 1, 8)),      # two blocks of 4 tiles, not of 6 and 1
    (9, 9, (3, 3, 1, 4)),
], ids=["one of each", "a full buffer", "two chunks of nearly equal size", "seven chunks",
        "one block", "two blocks of nearly equal size", "three blocks"])
def test_by_name(k, n, expected):
    schedule = Schedule.of(TINY, "2:4", 5, k, n)
    assert (schedule.steps, schedule.words, schedule.chunks, schedule.block) == expected


@pytest.mark.parametrize("pattern", SPEEDUP)
def test_a_sparse_pattern_divides_the_steps(pattern):
    schedule = Schedule.of(CONFIGS["tc-64-all"], pattern, 8, 768, 16)
    assert schedule.steps == 768 // 4 // SPEEDUP[pattern]
    assert schedule.words == 768 // 16


def test_a_pattern_that_is_not_built_is_refused():
    with pytest.raises(BadInput, match="^the tensor core is built for dense, 2:4, not for 1:4; "
                                       "choose another configuration$"):
        Schedule.of(TINY, "1:4", 1, 1, 1)


@pytest.mark.parametrize(("sizes", "said"), [
    ((0, 8, 8), "0 rows is not one command of the tensor core, which takes 1 to 65535"),
    ((1 << 16, 8, 8), "65536 rows is not one command of the tensor core, which takes 1 to 65535"),
    ((8, 8, 0), "0 columns is not one command of the tensor core, which takes 1 to 16777215"),
    ((8, 8, 1 << 24), "16777216 columns is not one command of the tensor core, which takes 1 to "
                      "16777215"),
    ((8, 0, 8), "0 chunks of K is not one command of the tensor core, which takes 1 to 255"),
    ((8, 16 * 255 + 1, 8), "256 chunks of K is not one command of the tensor core, which takes 1 "
                           "to 255"),
])
def test_what_is_not_one_command_is_refused(sizes, said):
    with pytest.raises(BadInput, match=rf"^{re.escape(f'a GEMM with {said}; make the layer ')}"):
        Schedule.of(TINY, "2:4", *sizes)


def test_a_block_beyond_its_field_is_refused():
    """The columns of B fit, but not when they fill whole tiles."""
    config = TensorCoreConfig(columns=1 << 8, activation_words=1 << 16)
    assert Schedule.of(config, "2:4", 1, 1, (1 << 24) - (1 << 8)).block == (1 << 24) - (1 << 8)
    with pytest.raises(BadInput, match="^a GEMM with 16777216 columns in a block is not one "):
        Schedule.of(config, "2:4", 1, 1, (1 << 24) - 1)


def test_the_largest_command():
    schedule = Schedule.of(TINY, "2:4", (1 << 16) - 1, 16 * 255, (1 << 24) - 1)
    fields = unpack_fields(layouts.gemm_layout(TINY), schedule.command())
    assert {name: int(fields[name][0]) for name in ("rows", "columns", "chunks", "steps")} == {
        "rows": (1 << 16) - 1, "columns": (1 << 24) - 1, "chunks": 255, "steps": 4}


def test_the_command_holds_the_sizes_and_the_modes():
    schedule = Schedule.of(CONFIGS["tc-64-all"], "1:4", 5, 70, 9)
    fields = unpack_fields(layouts.gemm_layout(schedule.config), schedule.command(
        zero_point=-128, relu=True, int4=True))
    assert {name: int(value[0]) for name, value in fields.items()} == {
        "rows": 5, "columns": 9, "block": 12, "chunks": 1, "steps": 5, "words": 5, "pattern": 2,
        "int4": 1, "zero_point": 128, "relu": 1, "raw": 0, "keep": 0}
    plain = unpack_fields(layouts.gemm_layout(schedule.config), schedule.command(raw=True))
    assert [int(plain[name][0]) for name in ("int4", "zero_point", "relu", "raw")] == [0, 0, 0, 1]


def bits(payload, width):
    return np.unpackbits(payload.view(np.uint8), axis=1, bitorder="little")[:, :width]


def read_weights(config, payload):
    """Weights and places of every step, int64 [n, rows, products] each."""
    products = config.products
    rows = bits(payload, config.rows * products * (10 if config.sparse else 8))
    rows = rows.reshape(len(payload), config.rows, -1)
    values = np.packbits(rows[..., :8 * products], axis=2, bitorder="little").view(np.int8)
    places = rows[..., 8 * products:].reshape(*rows.shape[:2], -1, 2) @ [1, 2]
    return values.astype(np.int64), places


def read_activations(config, payload):
    """Operands of every word, int64 [n, columns, operands]."""
    packed = np.packbits(bits(payload, 8 * config.columns * config.operands), axis=1,
                         bitorder="little")
    return packed.view(np.int8).reshape(-1, config.columns, config.operands).astype(np.int64)


def dot_products(schedule, weights, places, words, phase):
    """What one step adds to the tile, int64 [rows, columns]."""
    config = schedule.config
    lane = np.arange(config.products) // 2
    if not config.sparse:
        at = np.broadcast_to(np.arange(config.products), weights.shape)
    elif schedule.pattern == "dense":
        at = 4 * (phase // 2 * config.lanes + lane) + places
    elif schedule.pattern == "2:4":
        at = 4 * (phase * config.lanes + lane) + places
    else:
        at = 4 * np.arange(config.products) + places
    return np.einsum("rp,crp->rc", weights, words[:, at])


def machine(schedule, weights, activations, channels):
    """The output stream's payload for a raw GEMM: what the core does, block by block."""
    config, per_word = schedule.config, schedule.config.span // SPEEDUP[schedule.pattern]
    steps = iter(zip(*read_weights(config, weights), strict=True))
    words = iter(read_activations(config, activations))
    biases = iter(unpack_fields(layouts.CHANNEL, channels)["bias"].astype(np.uint32)
                  .view(np.int32).tolist())
    rows, kept = [], []
    for columns in range(schedule.n, 0, -schedule.block):
        tiles = -(-min(columns, schedule.block) // config.columns)
        block = [next(words) for _ in range(tiles * schedule.words)] if schedule.chunks == 1 else 0
        if schedule.keep:
            kept = kept or [*steps]     # all came in the first block
            steps = iter(kept)
        for left in range(schedule.m, 0, -config.rows):
            sums = np.zeros((tiles, config.rows, config.columns), np.int64)
            for _ in range(schedule.chunks):
                if schedule.chunks > 1:
                    block = [next(words) for _ in range(schedule.words)]
                panel = [next(steps) for _ in range(schedule.steps)]
                for tile in range(tiles):
                    for at, step in enumerate(panel):
                        word = block[tile * schedule.words + at // per_word]
                        sums[tile] += dot_products(schedule, *step, word, at % per_word)
            wanted = min(left, config.rows)
            bias = np.array([next(biases) for _ in range(wanted)])
            rows += [row for tile in sums for row in tile[:wanted] + bias[:, None]]
    assert [*steps, *words, *biases] == [], "nothing is left over"
    flags = np.zeros((len(rows), -(-config.columns // 32)), np.uint32)
    return np.concatenate([np.array(rows, np.int32).view(np.uint32), flags], axis=1)


def random_matrix(rng, pattern, m, k):
    """Stored values, places, and the matrix int8 [m, k]."""
    a = rng.integers(-128, 128, (m, k), np.int8)
    if pattern == "dense":
        return a, np.zeros((m, 0), np.uint8), a
    padded = np.zeros((m, -(-k // 4) * 4), np.int8)
    padded[:, :k] = a
    keep = nm.mask(padded, pattern)
    compressed = nm.compress(np.where(keep, padded, 0).astype(np.int8), pattern)
    return compressed.values, compressed.indices, nm.decompress(compressed)[:, :k]


@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
@example(problem=(ODD, "dense", (1, 12, 1)), seed=0)
@example(problem=(TINY, "2:4", (1, 1, 1)), seed=0)
@example(problem=(TINY, "2:4", (4, 100, 5)), seed=0)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_a_machine_that_reads_the_streams_gets_the_product(problem, seed):
    config, pattern, (m, k, n) = problem
    rng = np.random.default_rng(seed)
    schedule = Schedule.of(config, pattern, m, k, n)
    values, indices, a = random_matrix(rng, pattern, m, k)
    b = rng.integers(-128, 128, (n, k), np.int8)
    bias = rng.integers(-(1 << 31), 1 << 31, m)
    weights = schedule.weights(values, indices)
    assert len(weights) == schedule.turns * schedule.steps
    dense = schedule.matrix(weights)
    np.testing.assert_array_equal(dense[:, :k], a)
    assert not dense[:, k:].any()
    sent, received = streams(schedule.records(
        schedule.command(raw=True), weights,
        schedule.channels(bias, *(np.full(m, each) for each in RAW)), schedule.operands(b)))
    assert received == {"outputs": schedule.output_rows}
    payload = machine(schedule, sent["weights"], sent["activations"], sent["channels"])
    assert len(payload) == schedule.output_rows
    outputs, saturated = schedule.outputs(payload)
    expected = a.astype(np.int64) @ b.T.astype(np.int64) + bias[:, None]
    np.testing.assert_array_equal(outputs, expected.astype(np.uint32).view(np.int32))
    assert not saturated.any()


@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_padding_keeps_the_order_of_the_places(pattern):
    """mma.sp's metadata are ordered; behind the last stored weight too."""
    config = CONFIGS["tc-64-all"]
    schedule = Schedule.of(config, pattern, 4, 20, 4)
    values, indices, _ = random_matrix(np.random.default_rng(1), pattern, 4, 20)
    stored, places = read_weights(config, schedule.weights(values, indices))
    if pattern == "2:4":
        assert np.all(places[..., ::2] < places[..., 1::2])
    flat = places.swapaxes(0, 1).reshape(4, -1)
    np.testing.assert_array_equal(flat[:, :indices.shape[1]], indices)
    assert not stored.swapaxes(0, 1).reshape(4, -1)[:, values.shape[1]:].any()


@pytest.mark.parametrize(("k", "chunks"), [(40, 1), (100, 4)])
def test_dense_metadata_are_the_two_halves_of_every_group_in_turn(k, chunks):
    """Behind the last weight too, and from the start again in each chunk."""
    config = TensorCoreConfig(rows=2, columns=2, products=4, weight_words=10 if chunks == 1 else 8,
                              activation_words=8, patterns=("dense", "2:4"))
    schedule = Schedule.of(config, "dense", 3, k, 2)
    assert schedule.chunks == chunks
    a = np.ones((3, k), np.int8)
    _, places = read_weights(config, schedule.weights(a, np.zeros((3, 0), np.uint8)))
    places = places.reshape(2, chunks, schedule.steps, 2, 4).swapaxes(2, 3)[0]     # full panel
    assert places[..., ::2, :].tolist() == np.broadcast_to(
        [0, 1, 0, 1], places[..., ::2, :].shape).tolist()
    assert places[..., 1::2, :].tolist() == np.broadcast_to(
        [2, 3, 2, 3], places[..., 1::2, :].shape).tolist()


def test_channels_hold_any_numbers():
    schedule = Schedule.of(TINY, "2:4", 3, 4, 25)
    bias = np.array([-(1 << 31), -1, (1 << 31) - 1])
    multiplier, shift = np.array([0, 1, (1 << 31) - 1], np.int32), np.array([24, 40, 55], np.int32)
    fields = unpack_fields(layouts.CHANNEL, schedule.channels(bias, multiplier, shift))
    assert fields["bias"].astype(np.uint32).view(np.int32).tolist() == [*bias]
    assert fields["multiplier"].tolist() == [*multiplier]
    assert fields["shift"].tolist() == [0, 16, 31]


def order_of(schedule):
    """Port and number of items of every record, for numbers in place of operands."""
    m = schedule.m
    records = [*schedule.records(
        schedule.command(), schedule.weights(np.zeros((m, 1), np.int8), np.zeros((m, 0), np.uint8)),
        schedule.channels(np.arange(m), *(np.full(m, each) for each in RAW)),
        schedule.operands(np.zeros((schedule.n, 1), np.int8)))]
    assert records.pop() == Poll("busy", 0)
    assert records[0].port == "commands"
    assert all(isinstance(record, Read) == (record.port == "outputs") for record in records)
    return [(record.port[0], len(record.items) if isinstance(record, Write) else record.items)
            for record in records[1:]]


@pytest.mark.parametrize(("sizes", "expected"), [
    # Two panels of three rows; three blocks of at most ten columns: weights once.
    ((5, 4, 25), [("c", 3), ("w", 1), ("a", 5), ("o", 15), ("c", 2), ("w", 1), ("o", 10),
                  ("c", 3), ("a", 5), ("o", 15), ("c", 2), ("o", 10),
                  ("c", 3), ("a", 3), ("o", 9), ("c", 2), ("o", 6)]),
    # Twelve steps are more than half of the buffer: weights in each block.
    ((8, 16, 3), 2 * [("c", 3), ("w", 4), ("a", 4), ("o", 3), ("c", 3), ("w", 4), ("o", 3),
                      ("c", 2), ("w", 4), ("o", 2)]),
    # Chunks: each panel needs the columns again.
    ((4, 30, 2), [("c", 3), ("w", 4), ("a", 4), ("w", 4), ("a", 4), ("o", 3),
                  ("c", 1), ("w", 4), ("a", 4), ("w", 4), ("a", 4), ("o", 1)]),
], ids=["kept", "not kept", "chunks"])
def test_records_never_wait_for_a_later_one(sizes, expected):
    """What a panel needs before what it gives, and no more than the buffers hold of it."""
    m, k, n = sizes
    assert order_of(Schedule.of(TINY, "2:4", m, k, n)) == expected


def test_weights_are_kept_where_half_of_the_buffer_holds_them():
    config = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=6, activation_words=8)
    for rows, blocks, keep in ((6, 2, True), (7, 2, False), (6, 1, False)):
        schedule = Schedule.of(config, "2:4", rows, 8, 8 * blocks)      # two steps a panel
        assert (len(schedule.blocks), schedule.keep) == (blocks, keep)
        assert schedule.loads == (1 if keep else blocks)


def test_raw_hands_a_sum_on():
    assert RAW[0] == 1 << RAW[1]


@given(problem=problems())
@settings(deadline=None, derandomize=True, max_examples=100)
def test_every_output_is_gathered_from_its_place(problem):
    config, pattern, (m, k, n) = problem
    schedule = Schedule.of(config, pattern, m, k, n)
    places = [(row, tile) for columns in schedule.blocks for panel in schedule.panels
              for tile in range(columns.start, columns.stop, config.columns)
              for row in range(panel.start, panel.stop)]
    assert len(places) == schedule.output_rows
    items = np.array([[1000 * row + tile + c for c in range(config.columns)]
                      for row, tile in places])
    assert schedule.gather(items).tolist() == [[1000 * row + c for c in range(n)]
                                               for row in range(m)]


@pytest.mark.parametrize("columns", [1, 31, 33])
def test_outputs_are_signed_with_a_flag_each(columns):
    config = TensorCoreConfig(rows=1, columns=columns)
    schedule = Schedule.of(config, "dense", 1, 1, columns)
    flags = np.arange(columns) % 3 == 0
    payload = np.zeros((1, columns + -(-columns // 32)), np.uint32)
    payload[0, :columns] = np.arange(columns, dtype=np.uint32) - np.uint32(5)
    for at in np.flatnonzero(flags):
        payload[0, columns + at // 32] |= np.uint32(1 << at % 32)
    outputs, saturated = schedule.outputs(payload)
    assert outputs.dtype == np.int32
    assert outputs.tolist() == [list(range(-5, columns - 5))]
    assert saturated.tolist() == [flags.tolist()]
