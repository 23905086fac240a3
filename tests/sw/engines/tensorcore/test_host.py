"""The host side of the tensor core: products, layers, batches in pieces, counters; and verify
finds a planted change of one bit in anything that the host streams."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from zeroskip.hw.tensorcore.config import CONFIGS, TensorCoreConfig
from zeroskip.hw.tensorcore.core import CoreCounter, TensorCore
from zeroskip.sim.amaranth_model import AmaranthModel
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.tensorcore import golden
from zeroskip.sw.engines.tensorcore import host as tensorcore_host
from zeroskip.sw.engines.tensorcore.host import counters, multiply
from zeroskip.sw.engines.tensorcore.lower import compile_layer
from zeroskip.sw.engines.tensorcore.part import TensorCorePart, kept_columns
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.engines.tensorcore.schedule import Schedule
from zeroskip.sw.formats.nm import compress, mask
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.verify import verify

CONFIG = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16,
                          patterns=("dense", "2:4", "1:4"), int4=True)
GEOMETRY = Geometry((2, 5, 4), (3, 2), (2, 1), (1, 0, 1, 1), (1, 1))
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


PATTERNS = pytest.mark.parametrize("pattern", ["dense", "2:4", "1:4"])


@PATTERNS
def test_sums(model, pattern):
    values, indices, a, b = operands(pattern)
    schedule = Schedule.of(CONFIG, pattern, 5, 12, 7)
    found = multiply(model, schedule, values, indices, b)
    assert found.outputs.dtype == np.int32
    np.testing.assert_array_equal(found.outputs, golden.gemm(a, b.T))
    assert not found.saturated.any()


def test_bias_wraps_like_int32(model):
    values, indices, a, b = operands("2:4")
    bias = np.array([0, 1, -1, (1 << 31) - 1, -1 << 31])
    found = multiply(model, Schedule.of(CONFIG, "2:4", 5, 12, 7), values, indices, b, bias=bias)
    exact = golden.gemm(a, b.T).astype(np.int64) + bias[:, None]
    assert np.any(exact > (1 << 31) - 1)
    np.testing.assert_array_equal(found.outputs, exact.astype(np.int32))


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
    found = multiply(model, Schedule.of(CONFIG, pattern, 5, 12, 7), values, indices, b, bias=bias,
                     scale=(multiplier, shift), zero_point=zero_point, relu=relu)
    sums = (golden.gemm(a, b.T).T + bias).astype(np.int32)
    expected, saturated = golden.requantise(sums, multiplier, shift, zero_point, relu)
    np.testing.assert_array_equal(found.outputs, expected.T)
    assert np.count_nonzero(found.saturated) == saturated
    # Where something saturated the output is at an end.
    assert np.isin(found.outputs[found.saturated], (-128, 127)).all()


@pytest.mark.parametrize("pattern", ["dense", "2:4"])
def test_pairs_of_4_bit_numbers(model, pattern):
    values, indices, a, b = operands(pattern)
    wide_a, wide_b = (np.stack([(x.astype(int) & 15 ^ 8) - 8, x >> 4], axis=-1)
                      .reshape(len(x), -1) for x in (a, b))
    scale = (np.full(5, 1 << 30, np.int32), np.full(5, 34, np.int32))
    found = multiply(model, Schedule.of(CONFIG, pattern, 5, 12, 7), values, indices, b,
                     scale=scale, zero_point=3, int4=True)
    expected, _ = golden.requantise((wide_b @ wide_a.T).astype(np.int32), *scale, 3, False)
    np.testing.assert_array_equal(found.outputs, expected.T)
    assert len(np.unique(expected)) > 8


def test_times_are_those_of_the_rows_of_each_tile(model):
    values, indices, _, b = operands("dense")
    schedule = Schedule.of(CONFIG, "dense", 5, 12, 7)
    times = multiply(model, schedule, values, indices, b).times
    assert times.shape == (5, 7)
    assert len(np.unique(times)) == schedule.output_rows == 5 * 4
    for left in (0, 2, 4):      # the columns of one tile leave together
        np.testing.assert_array_equal(times[:, left], times[:, left + 1])
    panels = [times[rows] for rows in schedule.panels]
    assert all(before.max() < after.min()
               for before, after in pairwise(panels))
    later = multiply(model, schedule, values, indices, b).times
    assert later.min() > times.max()


# --- counters ---

def test_counters_start_again(model):
    values, indices, _, b = operands("2:4")
    schedule = Schedule.of(CONFIG, "2:4", 5, 12, 7)
    found = []
    for _ in range(2):
        multiply(model, schedule, values, indices, b)
        found.append(counters(model))
    assert found[0] == found[1]
    assert list(found[0]) == [counter.name.lower() for counter in CoreCounter]
    assert set(counters(model).values()) == {0}


def test_counters_by_hand(model):
    """Three panels and four tiles of columns; twelve columns are three words in 2:4."""
    values, indices, _, b = operands("2:4")
    for _ in range(3):
        multiply(model, Schedule.of(CONFIG, "2:4", 5, 12, 7), values, indices, b)
    counts = counters(model)
    assert counts["gemms"] == 3
    assert counts["steps"] == 3 * 3 * 4 * 3
    assert counts["cycles"] > sum(counts[name] for name in (
        "steps", "wait_weights", "wait_activations", "wait_outputs"))


# --- whole parts ---

def layer(name="a", outputs=6, inputs=12, pattern="2:4", geometry=None, seed=0, **fields):
    """A random layer, 12 columns where it is a convolution; and its pattern."""
    rng = np.random.default_rng(seed)
    columns, positions = (12, geometry.positions) if geometry else (inputs, 1)
    return Int8Layer(**{
        "name": name, "weight": random_weight(rng, outputs, columns, pattern),
        "bias": rng.integers(-9999, 9999, outputs),
        "multiplier": rng.integers(1 << 30, 1 << 31, outputs, np.int32),
        "shift": np.full(outputs, 39, np.int32), "activation": "none", "geometry": geometry,
        "inputs": 40 if geometry else inputs, "outputs": outputs * positions,
        "input_scale": 1.0, "input_zero_point": 3, "output_scale": 1.0, "output_zero_point": 3,
        "raw": False, **fields}), pattern


def part_of(*layers, config=CONFIG):
    return TensorCorePart(config, tuple(compile_layer(*each) for each in layers))


def golden_of(layers, x):
    """Outputs of every layer, and how many were saturated."""
    outputs, total = [], 0
    for each, _ in layers:
        x, saturated = golden.layer(x, each)
        outputs.append(x)
        total += saturated
    return outputs, total


def run(layers, x, progress=None):
    """The layers on a core of CONFIG; every output is the reference's."""
    result = backends.rtl("python").run(part_of(*layers), x, progress)
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
    "chunks of K": [layer(inputs=150, pattern="dense")],
}


def inputs_of(layers, batch=5):
    return int8(np.random.default_rng(4), batch, layers[0][0].inputs)


@pytest.mark.parametrize("case", NETWORKS)
def test_part(case):
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
    layers = [layer(geometry=geometry, raw=True, bias=bias)]
    (outputs,) = run(layers, inputs_of(layers)).outputs
    assert outputs.dtype == np.int32
    assert np.abs(outputs.astype(np.int64)).max() > 1 << 30


def test_raw_layer_behind_another():
    layers = [layer(), layer("b", 4, 6, raw=True)]
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
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0
    assert shares["useful"] == statistics.utilisation > 0.2
    total = {name: sum(own[name] for own in statistics.layers) for name in statistics.layers[0]}
    assert shares["wait_weights"] == total["wait_weights"] / total["cycles"]
    assert shares["useful"] + shares["edges"] == pytest.approx(total["steps"] / total["cycles"])


def test_no_edges_where_the_sizes_fit():
    layers = [layer(outputs=4, inputs=16)]
    assert run(layers, inputs_of(layers, 6)).statistics.shares()["edges"] == 0


def test_statistics_as_json():
    layers = NETWORKS["ReLU"]
    statistics = run(layers, inputs_of(layers)).statistics
    assert statistics.as_json() == {
        "images": 5, "utilisation": statistics.utilisation, "cycles": statistics.cycles,
        "saturated": statistics.saturated, "layers": list(statistics.layers)}
    assert set(statistics.layers[0]) == {
        "cycles", "steps", "wait_weights", "wait_activations", "wait_outputs", "gemms", "useful"}


# --- batches in pieces ---

@pytest.mark.parametrize(("case", "columns", "gemms"), [
    ("one layer", 5, [3]),                      # of 12 images: 5, 5 and 2
    ("one layer", 12, [1]),
    ("one layer", 11, [2]),
    ("convolution", 40, [4]),                   # 12 positions an image: three images each
    ("convolution", 11, [12]),                  # an image is not cut
    ("convolution and linear", 24, [6, 1]),
    ("convolution and linear", 1, [12, 12]),
])
def test_batch_in_pieces(monkeypatch, case, columns, gemms):
    layers, seen = NETWORKS[case], []
    monkeypatch.setattr(tensorcore_host, "COLUMNS", columns)
    statistics = run(layers, inputs_of(layers, 12), lambda *step: seen.append(step)).statistics
    assert [own["gemms"] for own in statistics.layers] == gemms
    assert [own["useful"] for own in statistics.layers] == [
        12 * each.outputs * kept_columns(each.weight.shape[1], pattern)
        for each, pattern in layers]
    assert len(seen) == sum(gemms)
    assert seen == sorted(seen)
    assert seen[-1] == (12 * len(layers), 12 * len(layers))


def test_compiled_simulation_gives_the_same_in_the_same_cycles():
    layers = [layer(outputs=9, geometry=GEOMETRY), layer("b", 5, 108, activation="relu")]
    part, x = part_of(*layers, config=CONFIGS["tc-8"]), inputs_of(layers)
    slow, fast = (backends.rtl(name).run(part, x) for name in ("python", "cxxrtl"))
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
    part = part_of(*PLANT_LAYERS)
    program = Program.chain((part,), integers)
    engine = GoldenBackend(program, integers)
    broken = list(part.layers)
    broken[number] = replace(broken[number], **arrays)
    # The golden engine knows the part by its layers: its own goes in beside the broken one.
    changed = TensorCorePart(CONFIG, tuple(broken))
    return verify(program, inputs_of(PLANT_LAYERS), (engine, _Only(changed)))


class _Only:
    """The gateware, on a part of its own whatever it is given."""

    name = "planted"

    def __init__(self, part):
        self._part = part

    def run(self, part, inputs, progress=None):
        return backends.rtl("python").run(self._part, inputs, progress)


def flipped(array, place, bit):
    changed = array.copy()
    bits = changed.view(f"u{changed.itemsize}")
    bits[place] ^= bits.dtype.type(1 << bit)
    return changed


def test_an_intact_part_is_equal():
    verdict = verdict_with(0)
    assert verdict.difference is None
    assert verdict.compared == 5 * (60 + 4)


@pytest.mark.parametrize(("number", "array", "place", "bit"), [
    (0, "values", (3, 2), 4),
    (1, "values", (2, 17), 6),
    (0, "indices", (1, 3), 0),
    (1, "indices", (0, 9), 1),
    (0, "multiplier", 4, 24),
    (1, "multiplier", 1, 27),
    (0, "shift", 2, 0),
    (1, "shift", 3, 2),
    (0, "bias", 0, 10),
    (1, "bias", 3, 31),
])
def test_a_change_of_one_bit_is_found(number, array, place, bit):
    integer, pattern = PLANT_LAYERS[number]
    own = part_of(*PLANT_LAYERS).layers[number]
    changed = flipped(getattr(own, array), place, bit)
    found = verdict_with(number, **{array: changed}).difference

    # What the reference makes of the same change, layer by layer.
    if array in ("values", "indices"):
        packed = {"values": own.values, "indices": own.indices, array: changed}
        weight = np.zeros((own.rows, -(-own.columns // 4), 4), np.int8)
        each = own.values.shape[1] // weight.shape[1]
        np.put_along_axis(weight, packed["indices"].reshape(*weight.shape[:2], each).astype(int),
                          packed["values"].reshape(*weight.shape[:2], each), axis=2)
        wrong = replace(integer, weight=weight.reshape(own.rows, -1)[:, :own.columns])
    else:
        wrong = replace(integer, **{array: changed.astype(getattr(integer, array).dtype)})
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
    assert channel == (place if isinstance(place, int) else place[0])
    assert (found.unit, found.pe) == ("tile row", channel % 2)
    assert found.cycle > 0
    assert found.values == (good[at][image, row], bad[at][image, row])
    assert found.outputs == sum(map(len, places))


def test_cycle_is_when_the_output_left():
    own = part_of(*PLANT_LAYERS).layers[1]
    verdict = verdict_with(1, bias=flipped(own.bias, 2, 20))
    found = verdict.difference
    ((result,), times) = verdict.results[1], verdict.results[1][0].times
    assert (found.layer, found.row) == ("second", 2)
    assert found.cycle == times[1][found.image, 2]
    assert result.outputs[1][found.image, 2] == found.values[1]
