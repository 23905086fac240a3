"""The host side of the tensor core: products, layers, batches, counters; and verify
finds a planted change of one bit in anything that the host streams."""

from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np
import pytest

from zeroskip.hw.tensorcore.config import CONFIGS, TensorCoreConfig
from zeroskip.hw.tensorcore.core import CoreCounter, TensorCore
from zeroskip.hw.tensorcore.drain import Drain
from zeroskip.sim.amaranth_model import AmaranthModel
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.tensorcore import golden
from zeroskip.sw.engines.tensorcore.host import collect, counters, multiply
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.packed import kept_columns
from zeroskip.sw.engines.tensorcore.product import ProductImage
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.formats.nm import compress, mask
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.verify import verify

CONFIG = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16,
                          patterns=("dense", "2:4", "1:4"), int4=True)
GEOMETRY = Geometry((2, 5, 4), (3, 2), (2, 1), (1, 0, 1, 1), (1, 1))
DEPTHWISE = replace(GEOMETRY, input_shape=(4, 5, 4), groups=4)
"""K = 12; 3 x 4 positions."""


@pytest.fixture(scope="module")
def core():
    return AmaranthModel(TensorCore(CONFIG))


@pytest.fixture
def model(core):
    """A core in Amaranth's simulator, whose counters start from zero."""
    counters(core)
    return core


def int8(rng, *shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def random_weight(rng, rows, columns, pattern):
    """int8 [rows, columns] of a pattern; the last group may be cut."""
    weight = int8(rng, rows, -(-columns // 4) * 4)
    if pattern != "dense":
        weight = np.where(mask(weight, pattern), weight, 0).astype(np.int8)
    return weight[:, :columns]


# --- one product ---

def operands(pattern, m=5, k=12, n=7, seed=0):
    """Stored values and places, the weights int8 [m, k] and the columns int8 [n, k]."""
    rng = np.random.default_rng(seed)
    a = random_weight(rng, m, k, pattern)
    values, indices = a, np.zeros((m, 0), np.uint8)
    if pattern != "dense":
        packed = compress(a, pattern)
        values, indices = packed.values, packed.indices
    return values, indices, a, int8(rng, n, k)


def product(model, pattern, values, indices, b, *, bias=None, scale=None, **modes):
    """The product of 5 rows, 12 along K and 7 columns on the core."""
    schedule = Schedule.of(CONFIG, pattern, 5, 12, 7)
    channels = schedule.channels(np.zeros(5, int) if bias is None else bias,
                                 *(scale or (np.full(5, value) for value in RAW)))
    return collect(model, schedule, schedule.records(
        schedule.command(raw=scale is None, **modes), schedule.weights(values, indices), channels,
        schedule.operands(b)))


PATTERNS = pytest.mark.parametrize("pattern", ["dense", "2:4", "1:4"])


@PATTERNS
def test_sums(model, pattern):
    values, indices, a, b = operands(pattern)
    found = product(model, pattern, values, indices, b)
    assert found.values.dtype == np.int32
    np.testing.assert_array_equal(found.values, golden.gemm(a, b.T))
    assert not found.saturated.any()


def test_bias_wraps_like_int32(model):
    values, indices, a, b = operands("2:4")
    bias = np.array([0, 1, -1, (1 << 31) - 1, -1 << 31])
    found = product(model, "2:4", values, indices, b, bias=bias)
    exact = golden.gemm(a, b.T).astype(np.int64) + bias[:, None]
    assert np.any(exact > (1 << 31) - 1)
    np.testing.assert_array_equal(found.values, exact.astype(np.int32))


@PATTERNS
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("zero_point", [-128, -7, 127])
def test_requantised_outputs(model, pattern, relu, zero_point):
    values, indices, a, b = operands(pattern)
    rng = np.random.default_rng(1)
    bias, shift = rng.integers(-9999, 9999, 5), np.array([24, 31, 40, 47, 55], np.int32)
    # Sums have about 15 bits: the outputs reach from small ones to beyond both ends.
    multiplier = np.minimum((1 << 31) - 1, np.int64(1) << shift - 7).astype(np.int32)
    multiplier -= rng.integers(0, 1 << 16, 5).astype(np.int32)
    found = product(model, pattern, values, indices, b, bias=bias, scale=(multiplier, shift),
                    zero_point=zero_point, relu=relu)
    sums = (golden.gemm(a, b.T).T + bias).astype(np.int32)
    expected, saturated = golden.requantise(sums, multiplier, shift, zero_point, relu)
    np.testing.assert_array_equal(found.values, expected.T)
    assert np.count_nonzero(found.saturated) == saturated
    # Where something saturated the output is at an end.
    assert np.isin(found.values[found.saturated], (-128, 127)).all()


@pytest.mark.parametrize("pattern", ["dense", "2:4"])
def test_pairs_of_4_bit_numbers(model, pattern):
    values, indices, a, b = operands(pattern)
    wide_a, wide_b = (np.stack([(x.astype(int) & 15 ^ 8) - 8, x >> 4], axis=-1)
                      .reshape(len(x), -1) for x in (a, b))
    scale = (np.full(5, 1 << 30, np.int32), np.full(5, 34, np.int32))
    found = product(model, pattern, values, indices, b, scale=scale, zero_point=3, int4=True)
    expected, _ = golden.requantise((wide_b @ wide_a.T).astype(np.int32), *scale, 3, False)
    np.testing.assert_array_equal(found.values, expected.T)
    assert len(np.unique(expected)) > 8


def test_times_are_those_of_the_rows_of_each_tile(model):
    values, indices, _, b = operands("dense")
    schedule = Schedule.of(CONFIG, "dense", 5, 12, 7)
    times = product(model, "dense", values, indices, b).times
    assert times.shape == (5, 7)
    assert len(np.unique(times)) == schedule.output_rows == 5 * 4
    for left in (0, 2, 4):      # the columns of one tile leave together
        np.testing.assert_array_equal(times[:, left], times[:, left + 1])
    panels = [times[rows] for rows in schedule.panels]
    assert all(before.max() < after.min()
               for before, after in pairwise(panels))
    later = product(model, "dense", values, indices, b).times
    assert later.min() > times.max()


@pytest.mark.parametrize(("sizes", "scaled"), [
    ((5, 12, 7), True), ((2, 3, 30), False), ((3, 150, 4), True), ((7, 1, 1), False)],
    ids=["requantised", "many columns", "chunks of K", "K of one"])
def test_product_of_two_operands_that_come_at_run_time(model, sizes, scaled):
    """One image, several operands; their zero points are folded into what is added."""
    m, k, n = sizes
    rng, zero_point = np.random.default_rng(m), 7
    scale = (rng.integers(1 << 29, 1 << 30, m, np.int32), np.full(m, 38, np.int32))
    image = ProductImage.of(CONFIG, m, k, n, scale=scale if scaled else None,
                            zero_point=-3 * scaled, relu=scaled)
    for _ in range(2):
        a, b = int8(rng, m, k), int8(rng, n, k)
        bias = -zero_point * a.sum(axis=1, dtype=np.int32)
        found = multiply(model, image, a, b, bias)
        sums = (b.astype(np.int32) - zero_point) @ a.T.astype(np.int32)
        expected = golden.requantise(sums, *scale, -3, True)[0] if scaled else sums
        np.testing.assert_array_equal(found.values, expected.T)
    assert len(np.unique(found.values)) > 1


# --- counters ---

def test_counters_start_again(model):
    values, indices, _, b = operands("2:4")
    found = []
    for _ in range(2):
        product(model, "2:4", values, indices, b)
        found.append(counters(model))
    assert found[0] == found[1]
    assert list(found[0]) == [counter.name.lower() for counter in CoreCounter]
    assert set(counters(model).values()) == {0}


def test_counters_by_hand(model):
    """Three panels and four tiles of columns; twelve columns are three words in 2:4."""
    values, indices, _, b = operands("2:4")
    for _ in range(3):
        product(model, "2:4", values, indices, b)
    counts = counters(model)
    assert counts["gemms"] == 3
    assert counts["steps"] == 3 * 3 * 4 * 3
    assert counts["cycles"] > sum(counts[name] for name in (
        "steps", "wait_weights", "wait_activations", "wait_outputs"))


# --- whole images ---

def layer(name="a", outputs=6, inputs=12, pattern="2:4", geometry=None, seed=0, dtype=np.int8,
          **fields):
    """A random layer, and its pattern."""
    rng = np.random.default_rng(seed)
    columns, positions = (geometry.patch, geometry.positions) if geometry else (inputs, 1)
    return Int8Layer(**{
        "name": name, "weight": random_weight(rng, outputs, columns, pattern),
        "bias": rng.integers(-9999, 9999, outputs),
        "multiplier": rng.integers(1 << 30, 1 << 31, outputs, np.int32),
        "shift": np.full(outputs, 39, np.int32), "activation": "none", "geometry": geometry,
        "input": TensorType.of(prod(geometry.input_shape) if geometry else inputs, np.int8, 1.0, 3),
        "output": TensorType.of(outputs * positions, dtype, 1.0, 3), **fields}), pattern


def image_of(*layers, config=CONFIG, batch=5):
    return TensorCoreImage.packed(config, *layers, batch=batch)


def golden_of(layers, x):
    """Outputs of every layer, and how many were saturated."""
    outputs, total = [], 0
    for each, _ in layers:
        x, saturated = golden.layer(x, each)
        outputs.append(x)
        total += saturated
    return outputs, total


def run(layers, x, progress=None, batch=5):
    """The layers on a core of CONFIG; every output is the reference's."""
    result = backends.rtl("python").run(image_of(*layers, batch=batch), x, progress)
    expected, saturated = golden_of(layers, x)
    for found, wanted in zip(result.outputs, expected, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    assert result.statistics.saturated == saturated
    return result


NETWORKS = {
    "one layer": [layer()],
    "dense": [layer(pattern="dense")],
    "K no multiple of four": [layer(inputs=13), layer("b", 3, 6, "1:4")],
    "ReLU": [layer(activation="relu"), layer("b", 3, 6, "dense", activation="relu")],
    "convolution": [layer(geometry=GEOMETRY)],
    "convolution and linear": [layer(outputs=3, geometry=GEOMETRY), layer("b", 5, 36)],
    "groups side by side": [
        layer(outputs=4, pattern="dense", geometry=DEPTHWISE),
        layer("b", 4, pattern="2:4", geometry=replace(DEPTHWISE, input_shape=(4, 3, 4)))],
    "groups one by one": [layer(outputs=4, geometry=replace(GEOMETRY, groups=2))],
    "groups all together": [layer(pattern="dense", geometry=replace(GEOMETRY, groups=2))],
    "chunks of K": [layer(inputs=150, pattern="dense")],
}


def inputs_of(layers, batch=5):
    return int8(np.random.default_rng(4), batch, layers[0][0].inputs)


@pytest.mark.parametrize("case", NETWORKS)
def test_image(case):
    layers = NETWORKS[case]
    result = run(layers, inputs_of(layers))
    assert [times.shape for times in result.times] == [y.shape for y in result.outputs]
    assert all(before.max() < after.min() for before, after in pairwise(result.times))


def test_something_saturates():
    layers = NETWORKS["one layer"]
    assert run(layers, inputs_of(layers)).statistics.saturated > 0


@pytest.mark.parametrize("geometry", [None, GEOMETRY])
def test_raw_layer(geometry):
    bias = np.array([0, 1, -1, 1 << 20, (1 << 31) - 1, -1 << 31])
    layers = [layer(geometry=geometry, dtype=np.int32, bias=bias)]
    (outputs,) = run(layers, inputs_of(layers)).outputs
    assert outputs.dtype == np.int32
    assert np.abs(outputs.astype(np.int64)).max() > 1 << 30


def test_raw_layer_behind_another():
    layers = [layer(), layer("b", 4, 6, dtype=np.int32)]
    assert [y.dtype for y in run(layers, inputs_of(layers)).outputs] == [np.int8, np.int32]


@pytest.mark.parametrize("case", ["K no multiple of four", "convolution and linear"])
def test_statistics(case):
    layers, batch = NETWORKS[case], 5
    statistics = run(layers, inputs_of(layers, batch)).statistics
    assert (statistics.images, statistics.multipliers) == (batch, 8)
    useful, steps = [], []
    for each, pattern in layers:
        rows, k = each.weight.shape
        n = batch * each.outputs // rows
        useful.append(rows * kept_columns(k, pattern) * n)
        per_row = -(-k // {"dense": 2, "2:4": 4, "1:4": 8}[pattern])
        steps.append(-(-rows // 2) * -(-n // 2) * per_row)
    assert [own["useful"] for own in statistics.layers] == useful
    assert [own["steps"] for own in statistics.layers] == steps
    assert [own["gemms"] for own in statistics.layers] == [1] * len(layers)
    assert statistics.cycles == sum(own["cycles"] for own in statistics.layers)
    assert statistics.utilisation == sum(useful) / (8 * statistics.cycles)


@pytest.mark.parametrize("case", NETWORKS)
def test_shares_of_the_cycles(case):
    layers = NETWORKS[case]
    statistics = run(layers, inputs_of(layers)).statistics
    shares = statistics.shares()
    assert list(shares) == ["useful", "edges", "wait_weights", "wait_activations",
                            "wait_outputs", "fill"]
    assert min(shares.values()) >= 0
    # Of each product: the cycle of the start, the way to the output queue and through it, and
    # the rows of the last tile.
    filling = [3 + Drain.latency(CONFIG) + (len(each.weight) - 1) % 2 + 1
               for each, _ in layers]
    assert shares["fill"] == pytest.approx(sum(filling) / statistics.cycles)
    assert shares["useful"] == statistics.utilisation > 0.2
    total = {name: sum(own[name] for own in statistics.layers) for name in statistics.layers[0]}
    assert shares["wait_weights"] == total["wait_weights"] / total["cycles"]
    assert shares["useful"] + shares["edges"] == pytest.approx(total["steps"] / total["cycles"])


def test_no_edges_where_the_sizes_fit():
    layers = [layer(outputs=4, inputs=16)]
    assert run(layers, inputs_of(layers, 6), batch=6).statistics.shares()["edges"] == 0


def test_statistics_as_json():
    layers = NETWORKS["ReLU"]
    statistics = run(layers, inputs_of(layers)).statistics
    assert statistics.as_json() == {
        "images": 5, "utilisation": statistics.utilisation, "cycles": statistics.cycles,
        "saturated": statistics.saturated, "layers": list(statistics.layers)}
    assert set(statistics.layers[0]) == {
        "cycles", "steps", "wait_weights", "wait_activations", "wait_outputs", "gemms", "useful",
        "saturated"}


# --- batches ---

@pytest.mark.parametrize(("case", "batch", "products"), [
    ("one layer", 5, 3),                        # of 12 samples: 5, 5, and 2 that are filled up
    ("one layer", 12, 1),
    ("one layer", 100, 1),
    ("convolution", 3, 4),
    ("convolution and linear", 1, 12),
    ("convolution and linear", 8, 2),
])
def test_batches(case, batch, products):
    layers, seen = NETWORKS[case], []
    statistics = run(layers, inputs_of(layers, 12), lambda *step: seen.append(step),
                     batch).statistics
    assert statistics.images == 12
    assert [own["gemms"] for own in statistics.layers] == [products] * len(layers)
    assert [own["useful"] for own in statistics.layers] == [
        12 * each.outputs * kept_columns(each.weight.shape[1], pattern)
        for each, pattern in layers]
    steps = [-(-len(each.weight) // 2) * -(-batch * each.outputs // len(each.weight) // 2)
             * -(-each.weight.shape[1] // {"dense": 2, "2:4": 4, "1:4": 8}[pattern])
             for each, pattern in layers]
    assert [own["steps"] for own in statistics.layers] == [products * each for each in steps]
    assert len(seen) == 1 + products * len(layers)
    assert seen == sorted(seen)
    assert seen[-1] == (12, 12)


def test_what_fills_the_last_batch_does_not_count_as_saturated():
    """Outputs of zeros saturate, those of the sample do not."""
    weight = np.full((2, 4), 1, np.int8)
    own = Int8Layer(
        name="a", weight=weight, bias=np.full(2, 500), multiplier=np.full(2, 1 << 30, np.int32),
        shift=np.full(2, 30, np.int32), activation="none", geometry=None,
        input=TensorType.of(4, np.int8, 1.0), output=TensorType.of(2, np.int8, 1.0))
    x = np.full((1, 4), -120, np.int8)
    assert golden.layer(x, own)[1] == 0
    assert golden.layer(0 * x, own)[1] == 2
    assert run([(own, "dense")], x, batch=4).statistics.saturated == 0


def test_an_image_for_another_batch_size():
    layers = NETWORKS["convolution and linear"]
    image, other = image_of(*layers, batch=3), image_of(*layers, batch=40)
    found = image.for_batch(40)
    assert found.batch == 40
    for own, wanted in zip(found.layers, other.layers, strict=True):
        for name, array in wanted.tensors().items():
            np.testing.assert_array_equal(getattr(own, name), array)


def test_compiled_simulation_gives_the_same_in_the_same_cycles():
    layers = [layer(outputs=9, geometry=GEOMETRY), layer("b", 5, 108, activation="relu")]
    image, x = image_of(*layers, config=CONFIGS["tc-8"], batch=2), inputs_of(layers)
    slow, fast = (backends.rtl(name).run(image, x) for name in ("python", "cxxrtl"))
    for a, b, wanted in zip(slow.outputs, fast.outputs, golden_of(layers, x)[0], strict=True):
        np.testing.assert_array_equal(a, wanted)
        np.testing.assert_array_equal(b, wanted)
    for a, b in zip(slow.times, fast.times, strict=True):
        np.testing.assert_array_equal(a, b)
    assert slow.statistics.as_json() == fast.statistics.as_json()


# --- verify ---

PLANT_LAYERS = [layer("first", outputs=5, geometry=GEOMETRY),
                layer("second", outputs=4, inputs=60, seed=1, shift=np.full(4, 41, np.int32))]


def verdict_with(number, **arrays):
    """The verdict on PLANT_LAYERS with these arrays of one layer replaced."""
    integers = tuple(each for each, _ in PLANT_LAYERS)
    image = image_of(*PLANT_LAYERS)
    program = Program.chain((image,), integers)
    engine = GoldenBackend(program, integers)
    broken = list(image.layers)
    broken[number] = replace(broken[number], **arrays)
    # The golden engine knows the image by its layers: its own goes in beside the broken one.
    changed = replace(image, layers=tuple(broken))
    return verify(program, inputs_of(PLANT_LAYERS), (engine, _Only(changed)))


class _Only:
    """The gateware, on an image of its own whatever it is given."""

    name = "planted"

    def __init__(self, image):
        self._image = image

    def run(self, image, inputs, progress=None):
        return backends.rtl("python").run(self._image, inputs, progress)


def flipped(array, place, bit):
    changed = array.copy()
    bits = changed.view(f"u{changed.itemsize}")
    bits[place] ^= bits.dtype.type(1 << bit)
    return changed


def test_an_intact_image_is_equal():
    verdict = verdict_with(0)
    assert verdict.difference is None
    assert verdict.compared == 5 * (60 + 4)


# The row's values begin at bit 20 of an item of weights, its places 16 bits behind them.
@pytest.mark.parametrize(("number", "array", "place", "bit"), [
    (0, "weights", (4, 0), 20 + 4),             # rows 2 and 3, second of three steps
    (1, "weights", (8, 0), 6),
    (0, "weights", (4, 0), 17),                 # 2 of (2, 3) becomes 0
    (1, "weights", (20, 1), 4),
    (0, "channels", (4, 1), 24),
    (1, "channels", (1, 1), 27),
    (0, "channels", (2, 1), 31),
    (1, "channels", (3, 2), 1),
    (0, "channels", (0, 0), 10),
    (1, "channels", (3, 0), 28),
])
def test_a_change_of_one_bit_is_found(number, array, place, bit):
    integer, pattern = PLANT_LAYERS[number]
    own = image_of(*PLANT_LAYERS).layers[number]
    changed = flipped(getattr(own, array), place, bit)
    found = verdict_with(number, **{array: changed}).difference

    # What the reference makes of the same change, layer by layer.
    wrong = replace(own, **{array: changed}).unpacked(CONFIG, 5)
    rows = np.flatnonzero([
        any(np.any(getattr(wrong, name)[row] != getattr(integer, name)[row])
            for name in ("weight", "bias", "multiplier", "shift")) for row in range(own.rows)])
    layers = list(PLANT_LAYERS)
    layers[number] = wrong, pattern
    x = inputs_of(PLANT_LAYERS)
    good, bad = golden_of(PLANT_LAYERS, x)[0], golden_of(layers, x)[0]
    places = [np.argwhere(a != b) for a, b in zip(good, bad, strict=True)]
    image, at, row = min((*rows[0][:1], at, *rows[0][1:]) for at, rows in enumerate(places)
                         if len(rows))

    assert (found.image, found.layer, found.row) == (image, ["first", "second"][at], row)
    assert at == number
    channel = row // own.positions
    assert [channel] == rows.tolist()
    if array == "channels":
        assert channel == place[0]
    assert (found.unit, found.pe) == ("tile row", channel % 2)
    assert found.cycle > 0
    assert found.values == (good[at][image, row], bad[at][image, row])
    assert found.outputs == sum(map(len, places))


def test_cycle_is_when_the_output_left():
    own = image_of(*PLANT_LAYERS).layers[1]
    verdict = verdict_with(1, channels=flipped(own.channels, (2, 0), 20))
    found = verdict.difference
    ((result,), times) = verdict.results[1], verdict.results[1][0].times
    assert (found.layer, found.row) == ("second", 2)
    assert found.cycle == times[1][found.image, 2]
    assert result.outputs[1][found.image, 2] == found.values[1]
