"""The memory images, walked as the machine walks them, give back exactly the layers; and whole
networks, on either machine and on both, give in RTL what the integer reference gives."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim import engines
from zeroskip.sim.chain import run_program
from zeroskip.sim.golden_engine import GoldenEngine
from zeroskip.sim.verify import verify
from zeroskip.sw import reference
from zeroskip.sw.compiler.compile import compile_network, storage
from zeroskip.sw.compiler.eie import compile_layers
from zeroskip.sw.compiler.tensorcore import compile_layer, fastest
from zeroskip.sw.compiler.tensorcore import compile_layers as compile_core
from zeroskip.sw.errors import BadInput
from zeroskip.sw.im2col import Geometry
from zeroskip.sw.network import Conv2d, Linear, Network, Quantised
from zeroskip.sw.pack.eie import Packed, unpack
from zeroskip.sw.pack.nm import Compressed, decompress
from zeroskip.sw.program import Program
from zeroskip.sw.quantize.fixed import FixedLayer, LayerReport
from zeroskip.sw.quantize.int8 import Int8Layer, LayerReport8


def layer(indices, name="fc", codebook=None, bias=None, shift=4, activation="none"):
    indices = np.asarray(indices, np.uint8)
    codebook = [7 * v - 50 if v else 0 for v in range(16)] if codebook is None else codebook
    bias = np.arange(len(indices)) - 2 if bias is None else bias
    return FixedLayer(name, indices, np.array(codebook, np.int16), np.array(bias, np.int64),
                      shift, activation, 0.5, 0.25)


def random_layer(outputs, inputs, seed, **fields):
    rng = np.random.default_rng(seed)
    indices = rng.integers(1, 16, (outputs, inputs), dtype=np.uint8)
    indices[rng.random(indices.shape) < 0.6] = 0
    codebook = [0, *rng.choice(np.arange(-999, 1000), 15, replace=False)]
    return layer(indices, codebook=codebook, bias=rng.integers(-9999, 9999, outputs), **fields)


def network(*widths):
    """Layers between these widths, each with its own shift; ReLU on all but the last."""
    shapes = list(zip(widths[1:], widths, strict=False))
    return tuple(
        random_layer(outputs, inputs, seed=i, name=f"fc{i}", shift=i,
                     activation="none" if i == len(shapes) - 1 else "relu")
        for i, (outputs, inputs) in enumerate(shapes))


def walk(program):
    """Weight, bias plus rounding constant, shift and ReLU of every layer, from the images.

    Plain Python: an entry skips z of its PE's rows and adds ``codebook[v]`` to the next; a
    segment with ``rows`` takes that many accumulators of each PE to its destination words.
    """
    n, layers = program.config.pes, []
    weight, bias, sums, facts = {}, {}, {}, set()
    for s in program.segments:
        for column in range(s.first, s.limit):
            j = s.source * n + column - s.first
            for pe in range(n):
                row = 0
                for at in range(program.pointers[pe, column], program.pointers[pe, column + 1]):
                    entry = int(program.entries[pe, at])
                    row += entry >> 4
                    value = int(program.codebooks[s.codebook, entry & 15])
                    sums[pe, row, j] = sums.get((pe, row, j), 0) + value
                    row += 1
        if s.rows:
            for (pe, row, j), value in sums.items():
                assert row < s.rows
                weight[(s.destination + row) * n + pe, j] = value
            for pe, row in np.ndindex(n, s.rows):
                bias[(s.destination + row) * n + pe] = int(program.biases[pe, s.bias + row])
            facts.add((s.shift, s.relu))
            sums = {}
        if s.swap:
            layers.append((weight, bias, facts))
            weight, bias, facts = {}, {}, set()
    return layers


def check(program, layers):
    found = walk(program)
    assert len(found) == len(layers)
    for (weight, bias, facts), expected in zip(found, layers, strict=True):
        dense = np.zeros(expected.weight.shape, np.int64)
        for (i, j), value in weight.items():
            dense[i, j] = value     # refuses a padding row or column that is not a zero
        assert np.array_equal(dense, expected.weight)
        half = (1 << expected.shift) >> 1
        rows = len(expected.bias)
        assert [bias[i] for i in range(rows)] == (expected.bias + half).tolist()
        assert not any(bias[i] for i in bias if i >= rows)
        assert facts == {(expected.shift, int(expected.activation == "relu"))}


SMALL = EIEConfig(pes=3, acc_depth=64, block=64)
CASES = {
    "plain": (SMALL, (20, 15, 9)),
    "several passes": (replace(SMALL, acc_depth=2), (12, 20, 13)),
    "several blocks": (replace(SMALL, block=2), (20, 15, 9)),
    "passes and blocks": (replace(SMALL, acc_depth=2, block=1, descriptors=64), (10, 14, 7)),
    "last pass of one row": (replace(SMALL, acc_depth=2), (5, 13)),
    "last block of one input": (replace(SMALL, block=2), (13, 5)),
    "blocks that end with the inputs": (replace(SMALL, block=2), (12, 6)),
    "rows not a multiple of N": (replace(SMALL, pes=4), (7, 10, 5, 6)),
    "fewer rows than PEs": (replace(SMALL, pes=8), (3, 2, 5)),
    "one PE": (replace(SMALL, pes=1), (9, 12, 4)),
    "one weight": (replace(SMALL, pes=1), (1, 1)),
    "padding entries": (replace(SMALL, pes=1, act_depth=200, acc_depth=200, bias_depth=400),
                        (3, 200, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_images_give_the_layers(case):
    config, widths = CASES[case]
    layers = network(*widths)
    check(compile_layers(layers, config), layers)


def test_all_zero_matrix():
    layers = (layer(np.zeros((7, 5)), bias=range(7)),)
    program = compile_layers(layers, SMALL)
    assert program.entries.shape == (3, 0)
    check(program, layers)


def test_all_zero_matrix_between_others():
    layers = list(network(8, 9, 7, 5))
    layers[1] = replace(layers[1], indices=np.zeros((7, 9), np.uint8))
    check(compile_layers(tuple(layers), SMALL), layers)


def test_matrix_without_a_zero():
    layers = (layer(np.full((10, 8), 15)),)
    check(compile_layers(layers, replace(SMALL, acc_depth=2)), layers)


def test_long_gaps():
    indices = np.zeros((70, 2))
    indices[[0, 16, 33, 69], 0] = 1, 2, 3, 4
    indices[69, 1] = 5
    layers = (layer(indices),)
    program = compile_layers(layers, EIEConfig(pes=1, act_depth=70, acc_depth=70, bias_depth=70))
    # gaps of 0, 15, 16 and 35 rows, and one of 69: 0 + 0 + 1 + 2 + 4 padding entries
    assert (program.layers[0].entries, program.layers[0].padding) == (12, 7)
    check(program, layers)


def test_unpack_of_each_pass_gives_the_indices():
    """The independent unpacker, on what the compiler stored for each pass."""
    config = replace(SMALL, acc_depth=2)
    layers = network(12, 20, 13)
    program, column = compile_layers(layers, config), 0
    for expected in layers:
        rows, inputs = expected.indices.shape
        found = []
        for start in range(0, rows, 6):
            pointers = program.pointers[:, column:column + inputs + 1]
            entries = tuple(program.entries[pe, own[0]:own[-1]]
                            for pe, own in enumerate(pointers))
            found.append(unpack(Packed(entries, pointers - pointers[:, :1],
                                       min(6, rows - start), inputs)))
            column += inputs
        assert np.array_equal(np.concatenate(found), expected.indices)
    assert column + 1 == program.pointers.shape[1]


def test_segments_of_passes_and_blocks():
    program = compile_layers((layer(np.ones((5, 5)), shift=3),),
                             EIEConfig(pes=2, acc_depth=2, block=2))
    drains = {"shift": 3, "codebook": 0, "relu": 0}
    rows = [vars(segment) for segment in program.segments]
    zero = dict.fromkeys(rows[0], 0)
    assert rows == [
        zero | {"first": 0, "limit": 4, "source": 0},
        zero | drains | {"first": 4, "limit": 5, "source": 2, "rows": 2},
        zero | {"first": 5, "limit": 9, "source": 0},
        zero | drains | {"first": 9, "limit": 10, "source": 2, "rows": 1, "destination": 2,
                         "bias": 2, "swap": 1, "outputs": 5, "last": 1}]


def test_each_layer_has_its_own_codebook():
    layers = network(6, 5, 4)
    program = compile_layers(layers, SMALL)
    assert np.array_equal(program.codebooks, [each.codebook for each in layers])
    assert [segment.codebook for segment in program.segments] == [0, 1]


def test_facts_of_the_layers():
    layers = network(20, 15, 9)
    first, second = compile_layers(layers, SMALL).layers
    assert (first.name, first.inputs, first.outputs, first.activation) == ("fc0", 20, 15, "relu")
    assert (second.inputs, second.outputs, second.output_scale) == (15, 9, 0.25)
    for found, expected in zip((first, second), layers, strict=True):
        assert found.nonzeros == np.count_nonzero(expected.indices)
        assert found.entries == found.nonzeros + found.padding


TIGHT = EIEConfig(pes=1, weight_rows=9, pointers=34, act_depth=6, acc_depth=2, bias_depth=12,
                  codebooks=2, descriptors=6)
"""Exactly what the two layers of the next tests need."""
NEEDS = {
    "weight_rows": "9 64-bit weight rows per PE (it has 8)",      # 30 + 36 entries
    "pointers": "34 column pointers per PE (it has 33)",          # 3 passes x (5 + 6), and the end
    "act_depth": "6 activations per PE and role (it has 5)",
    "bias_depth": "12 biases per PE (it has 11)",
    "codebooks": "2 codebooks (it has 1)",
    "descriptors": "6 descriptors (it has 5)",
}
PAIR = (layer(np.ones((6, 5)), "a"), layer(np.ones((6, 6)), "b"))


def test_network_that_fits_exactly():
    check(compile_layers(PAIR, TIGHT), PAIR)


@pytest.mark.parametrize("memory", NEEDS)
def test_one_memory_too_short_by_one(memory):
    short = replace(TIGHT, **{memory: getattr(TIGHT, memory) - 1})
    with pytest.raises(BadInput) as error:
        compile_layers(PAIR, short)
    assert f"it needs {NEEDS[memory]}; " in str(error.value)


def test_every_short_memory_is_named():
    short = replace(TIGHT, **{memory: getattr(TIGHT, memory) - 1 for memory in NEEDS})
    with pytest.raises(BadInput) as error:
        compile_layers(PAIR, short)
    assert f"it needs {', '.join(NEEDS.values())}; " in str(error.value)


def test_provable_overflow_names_layer_and_row():
    wide = layer([[1, 0, 0], [0, 2, 0], [1, 1, 1]], "fc7", [0, 32767, -5] + [0] * 13)
    with pytest.raises(BadInput, match="layer fc7, row 2: a sum can reach -?3221"):
        compile_layers((wide,), SMALL)


def overflowing_after(activation):
    """The second layer overflows only where its inputs can be negative."""
    first = layer(np.ones((2, 1)), "first", activation=activation)
    return first, layer([[1, 2]], "second", [0, 32767, -32767] + [0] * 13, bias=[1 << 20])


def test_overflow_counts_negative_inputs():
    with pytest.raises(BadInput, match="layer second, row 0"):
        compile_layers(overflowing_after("none"), SMALL)


def test_no_overflow_behind_a_relu():
    layers = overflowing_after("relu")
    check(compile_layers(layers, SMALL), layers)


def test_narrow_accumulator_overflows():
    narrow = layer([[1]], "fc", [0, 4] + [0] * 14, bias=[0], shift=0)
    compile_layers((narrow,), replace(SMALL, acc_width=18))
    with pytest.raises(BadInput, match="17-bit"):
        compile_layers((narrow,), replace(SMALL, acc_width=17))


def test_bias_alone_overflows():
    with pytest.raises(BadInput, match="layer fc, row 1: a sum can reach 2147483"):
        compile_layers((layer([[0], [0]], bias=[(1 << 31) - 9, (1 << 31) - 8]),), SMALL)


def test_pointers_beyond_65535(tmp_path):
    """Absolute pointers of more than 16 bits."""
    layers = (layer(np.full((300, 300), 3)),)
    config = EIEConfig(pes=1, weight_rows=16384, act_depth=300, acc_depth=300, bias_depth=300,
                       block=300)
    Program((compile_layers(layers, config),), "").save(tmp_path / "large.zsk")
    (program,) = Program.load(tmp_path / "large.zsk").parts
    assert program.pointers[0, -1] == 90_000
    check(program, layers)


def test_columns_beyond_65535(tmp_path):
    indices = np.zeros((2, 70_000))
    indices[0, 1::1000] = 3
    indices[1, 69_999] = 4
    layers = (layer(indices),)
    config = EIEConfig(pes=1, pointers=70_001, act_depth=70_000, block=70_000)
    Program((compile_layers(layers, config),), "").save(tmp_path / "wide.zsk")
    (program,) = Program.load(tmp_path / "wide.zsk").parts
    assert (program.segments[0].limit, program.pointers[0, -2:].tolist()) == (70_000, [70, 71])
    check(program, layers)


def test_storage_by_hand():
    config = EIEConfig(pes=2, weight_rows=2)            # 16 entries, so pointers of 5 bits
    part = compile_layers((layer([[1, 0], [0, 2], [3, 0]]),), config)
    assert storage(Program((part,), "")) == {
        "weights": 2,               # 3 entries of 4 bits
        "indices": 2,
        "pointers": 4,              # 2 PEs x 3 pointers x 5 bits
        "codebooks": 32,            # 16 values of 16 bits
        "biases": 12,               # 3 of 32 bits
        "packed": 52,
        "float32": 36,              # 3 x 2 weights and 3 biases
    }


def test_storage_counts_padding():
    column = np.zeros((40, 1))
    column[33] = 1                  # 33 zeros before it: two padding entries
    config = EIEConfig(pes=1)
    sizes = compile_layers((layer(column),), config).storage()
    assert (sizes["weights"], sizes["indices"]) == (2, 2)   # 3 entries of 4 bits each


def test_storage_of_two_layers():
    part = compile_layers(PAIR, TIGHT)                  # 72 entries, so pointers of 7 bits
    assert storage(Program((part,), "")) == {
        "weights": 33, "indices": 33, "pointers": 30, "codebooks": 64, "biases": 48,
        "packed": 208, "float32": 4 * (30 + 6 + 36 + 6)}


# --- whole networks, from float layers to the outputs of the gateware ---

CORE = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=64, activation_words=64,
                        patterns=("dense", "2:4", "1:4"))
ARRAY = EIEConfig(pes=3)


def weights(outputs, inputs, pattern):
    """Random float weights whose zeros are exactly of this pattern."""
    rng = np.random.default_rng(inputs)
    groups = -(-inputs // 4)
    order = rng.random((outputs, groups, 4)).argsort(axis=2).reshape(outputs, -1)[:, :inputs]
    kept = {"dense": order < 4, "2:4": order < 2, "1:4": order < 1,
            "unstructured": rng.random((outputs, inputs)) < 0.4}[pattern]
    if pattern == "unstructured":
        kept[0, :4] = True, True, True, False
    values = rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
    return np.where(kept, values, 0).astype(np.float32)


def linear(name, outputs, inputs, pattern, activation="relu"):
    bias = np.random.default_rng(outputs).normal(scale=0.1, size=outputs).astype(np.float32)
    return Linear(name, weights(outputs, inputs, pattern), bias, activation)


def conv(name, outputs, pattern):
    """A convolution of 2 x 5 x 4 to ``outputs`` x 3 x 4, with padding on one side only."""
    return Conv2d(name, weights(outputs, 12, pattern).reshape(outputs, 2, 3, 2),
                  np.linspace(-0.2, 0.2, outputs, dtype=np.float32), "relu",
                  (2, 5, 4), (2, 1), (1, 0, 1, 1), (1, 1))


def samples(net, count=5):
    return np.random.default_rng(7).normal(size=(count, net.inputs)).astype(np.float32)


def compiled_and_exact(net, *configs):
    """The compiled network, every output of every layer of which is the same in RTL and in the
    reference, and near to the float network."""
    x = samples(net)
    compiled = compile_network(net, x, *configs)
    integers, saturated = compiled.program.input.to_integer(x)
    assert saturated == 0
    golden = GoldenEngine(compiled.program, compiled.reference)
    verdict = verify(compiled.program, integers, (golden, engines.rtl("python")))
    assert verdict.difference is None
    assert verdict.compared == len(x) * sum(layer.outputs for layer in net.layers)

    found = compiled.program.output.to_float(verdict.results[0][-1].outputs[-1])
    expected = net.forward(x)[-1]
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    assert len(np.unique(expected)) > 8
    return compiled


NETWORKS = {
    # Layers, and the pattern that each is packed in.
    "2:4": ([linear("a", 9, 12, "2:4"), linear("b", 5, 9, "2:4", "none")], ["2:4", "2:4"]),
    "dense": ([linear("a", 5, 12, "dense", "none")], ["dense"]),
    "1:4": ([linear("a", 8, 12, "1:4"), linear("b", 5, 8, "2:4", "none")], ["1:4", "2:4"]),
    "K no multiple of four": (
        [linear("a", 7, 13, "2:4"), linear("b", 6, 7, "1:4"), linear("c", 5, 6, "dense", "none")],
        ["2:4", "1:4", "dense"]),
    "no pattern, so dense": ([linear("a", 5, 12, "unstructured", "none")], ["dense"]),
    "convolution": ([conv("a", 4, "2:4")], ["2:4"]),
    "dense convolution": ([conv("a", 3, "dense")], ["dense"]),
    "convolution and linear": (
        [conv("a", 3, "1:4"), linear("b", 5, 36, "2:4", "none")], ["1:4", "2:4"]),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_network_on_the_tensor_core(case):
    layers, patterns = NETWORKS[case]
    (part,) = compiled_and_exact(Network(tuple(layers)), CORE).program.parts
    assert part.config == CORE
    assert [layer.pattern for layer in part.layers] == patterns


@pytest.mark.parametrize("patterns", [("2:4", "2:4"), ("unstructured", "dense")])
def test_network_on_the_array(patterns):
    net = Network(tuple(linear(name, 8, 12 if name == "a" else 8, pattern)
                        for name, pattern in zip("ab", patterns, strict=True)))
    compiled = compiled_and_exact(net, ARRAY)
    (part,) = compiled.program.parts
    assert part.config == ARRAY
    assert [type(entry) for entry in compiled.report] == [LayerReport, LayerReport]
    # Of 15 centroids each k-means may merge weights, but it neither makes nor loses one.
    assert [layer.nonzeros for layer in part.layers] == [
        np.count_nonzero(layer.weight) for layer in net.layers]


@pytest.fixture
def both():
    """A network whose layer in the middle suits the array, and the others the tensor core."""
    return Network((linear("a", 12, 8, "2:4"), linear("b", 12, 12, "2:4"),
                    linear("c", 10, 12, "unstructured"), linear("d", 5, 10, "2:4", "none")))


@pytest.mark.parametrize("configs", [(ARRAY, CORE), (CORE, ARRAY)])
def test_network_split_over_both_machines(both, configs):
    compiled = compiled_and_exact(both, *configs)
    assert [(part.engine, [layer.name for layer in part.layers])
            for part in compiled.program.parts] == [
        ("tensorcore", ["a", "b"]), ("eie", ["c"]), ("tensorcore", ["d"])]
    assert [part.config for part in compiled.program.parts] == [CORE, ARRAY, CORE]
    assert [type(layer) for layer in compiled.reference] == [
        Int8Layer, Int8Layer, reference.ReferenceLayer, Int8Layer]
    assert [(type(entry), entry.name) for entry in compiled.report] == [
        (LayerReport8, "a"), (LayerReport8, "b"), (LayerReport, "c"), (LayerReport8, "d")]


def test_each_part_is_calibrated_by_what_reaches_it(both):
    """Scales of the later parts come from the float outputs of the parts before."""
    x = samples(both)
    parts = compile_network(both, x, ARRAY, CORE).program.parts
    _, second, third, _ = both.forward(x)
    assert parts[1].input.scale == pytest.approx(second.max() / 32767)
    assert (parts[2].input.scale, parts[2].input.zero_point) == (
        pytest.approx(third.max() / 255), -128)


def test_convolution_before_the_array():
    net = Network((conv("a", 3, "2:4"), linear("b", 9, 36, "unstructured"),
                   linear("c", 5, 9, "unstructured", "none")))
    compiled = compiled_and_exact(net, ARRAY, CORE)
    assert [(part.engine, len(part.layers)) for part in compiled.program.parts] == [
        ("tensorcore", 1), ("eie", 2)]


@pytest.mark.parametrize(("config", "parts"), [(CORE, ["tensorcore"]), (ARRAY, ["eie"])])
def test_one_machine_takes_every_layer(both, config, parts):
    compiled = compiled_and_exact(both, config)
    assert [part.engine for part in compiled.program.parts] == parts
    assert [layer.name for layer in compiled.program.layers] == ["a", "b", "c", "d"]


def test_compiled_simulation_of_a_split_network(both):
    x = samples(both)
    program = compile_network(both, x, EIEConfig(), TensorCoreConfig(
        rows=2, columns=2, products=2, weight_words=256, activation_words=512)).program
    integers, _ = program.input.to_integer(x)
    slow, fast = (run_program(program, engines.rtl(name), integers)
                  for name in ("python", "cxxrtl"))
    for a, b in zip(slow, fast, strict=True):
        np.testing.assert_array_equal(a.outputs[-1], b.outputs[-1])
        assert a.statistics.as_json() == b.statistics.as_json()


def test_a_convolution_cannot_run_on_the_array():
    net = Network((linear("a", 40, 6, "dense"), conv("b", 3, "2:4")))
    with pytest.raises(BadInput) as error:
        compile_network(net, samples(net), ARRAY)
    assert str(error.value) == (
        "layer b is a convolution; the EIE array takes fully-connected layers only: "
        "choose a tensor core as its target")


def quantised(name, outputs, inputs):
    """A layer of a quantised model: scales 0.5 and 0.25, weights 2:4."""
    integers = np.where(weights(outputs, inputs, "2:4"), 3, 0).astype(np.int8)
    scale = np.full(outputs, 0.125)
    own = Quantised(integers, scale, np.arange(outputs), 0.5, 3, 0.25, -7, raw=False)
    return Linear(name, (integers * scale[:, None]).astype(np.float32),
                  (np.arange(outputs) * 0.5 * 0.125).astype(np.float32), "none", own)


def test_a_quantised_network_needs_no_calibration():
    compiled = compile_network(Network((quantised("a", 5, 8),)), None, ARRAY, CORE)
    (part,) = compiled.program.parts
    assert (part.engine, part.layers[0].pattern) == ("tensorcore", "2:4")
    assert (part.input.scale, part.input.zero_point, part.output.scale,
            part.output.zero_point) == (0.5, 3, 0.25, -7)
    assert compiled.report[0].saturated is None
    x = np.random.default_rng(1).integers(-128, 128, (4, 8)).astype(np.int8)
    golden = GoldenEngine(compiled.program, compiled.reference)
    assert verify(compiled.program, x, (golden, engines.rtl("python"))).difference is None


@pytest.mark.parametrize(("dtype", "least"), [("uint8", 0), ("int8", -128)])
def test_a_model_of_integers(tmp_path, dtype, least):
    """Its type reaches the file; its calibration samples are integers too."""
    net = Network((quantised("a", 5, 8), linear("b", 3, 5, "dense")), dtype)
    stored = np.random.default_rng(1).integers(least, least + 256, (40, 8)).astype(dtype)
    compiled = compile_network(net, stored, CORE)
    real = (stored.astype(np.float64) - least - 128 - 3) * 0.5
    expected = compile_network(Network(net.layers), real, CORE)
    compiled.save(tmp_path / "model.zsk")
    assert Program.load(tmp_path / "model.zsk").input_dtype == dtype
    assert expected.program.input_dtype == "float32"
    assert compiled.program.reference == expected.program.reference
    assert compiled.report == expected.report
    with pytest.raises(BadInput, match=f"^the calibration array is float64, but the model takes "
                                       f"{dtype}; "):
        compile_network(net, real, CORE)


def test_a_quantised_layer_cannot_run_on_the_array():
    net = Network((quantised("a", 5, 8),))
    for calibration in (None, samples(net)):
        with pytest.raises(BadInput, match="layer a is quantised to int8, and the EIE array"):
            compile_network(net, calibration, ARRAY)


@pytest.mark.parametrize("configs", [(ARRAY,), (CORE,), (ARRAY, CORE)])
def test_a_float_network_needs_calibration(both, configs):
    with pytest.raises(BadInput, match="layers that are not quantised; give samples to calibrate"):
        compile_network(both, None, *configs)


def test_storage_of_a_split_network(both):
    program = compile_network(both, samples(both), ARRAY, CORE).program
    sizes, (first, second, third) = storage(program), [part.storage() for part in program.parts]
    assert sizes["weights"] == first["weights"] + second["weights"] + third["weights"]
    assert sizes["codebooks"] == second["codebooks"]
    assert sizes["shifts"] == 12 + 12 + 5
    assert sizes["float32"] == 4 * (12 * 9 + 12 * 13 + 10 * 13 + 5 * 11)
    assert sizes["packed"] == sum(
        size for name, size in sizes.items() if name not in ("packed", "float32"))


# --- packing for the tensor core ---

@pytest.mark.parametrize(("patterns", "row", "expected"), [
    (("dense", "2:4", "1:4"), [0, 0, 5, 0, 0, 0, 0, 0], "1:4"),
    (("dense", "2:4", "1:4"), [0, 1, 5, 0, 0, 0, 0, 2], "2:4"),
    (("dense", "2:4", "1:4"), [0, 1, 5, 1, 0, 0, 0, 0], "dense"),
    (("dense", "2:4", "1:4"), [0] * 8, "1:4"),
    (("dense", "2:4"), [0, 0, 5, 0, 0, 0, 0, 0], "2:4"),
    (("dense", "1:4"), [0, 1, 5, 0, 0, 0, 0, 0], "dense"),
    (("dense",), [0, 0, 5, 0, 0, 0, 0, 0], "dense"),
    (("dense", "2:4", "1:4"), [1, 0, 0, 0, 1], "1:4"),      # a last group of one
    (("dense", "2:4", "1:4"), [1, 0, 0, 0, 1, 1], "2:4"),
    (("dense", "2:4", "1:4"), [0, 0, 0, 0, 1, 1, 1], "dense"),
])
def test_fastest_pattern(patterns, row, expected):
    config = replace(CORE, patterns=patterns)
    weight = np.array([[0] * len(row), row], np.int8)
    assert fastest(weight, config) == expected


def int8_layer(weight, **fields):
    weight = np.array(weight, np.int8)
    rows, columns = weight.shape
    return Int8Layer(**{
        "name": "fc", "weight": weight, "bias": np.arange(rows) - 1,
        "multiplier": np.full(rows, 1 << 30, np.int32), "shift": np.full(rows, 31, np.int32),
        "activation": "relu", "geometry": None, "inputs": columns, "outputs": rows,
        "input_scale": 0.5, "input_zero_point": 3, "output_scale": 0.25,
        "output_zero_point": -7, "raw": False, **fields})


def test_packed_layer_by_hand():
    packed = compile_layer(int8_layer([[0, 5, 0, -3, 7], [1, 2, 0, 0, 0]]), "2:4")
    assert packed.values.tolist() == [[5, -3, 7, 0], [1, 2, 0, 0]]
    assert packed.indices.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    assert (packed.bias.dtype, packed.bias.tolist()) == (np.int32, [-1, 0])
    assert (packed.columns, packed.rows, packed.positions) == (5, 2, 1)


def test_a_dense_layer_keeps_its_zeros_and_has_no_places():
    packed = compile_layer(int8_layer([[0, 5, 0, -3, 7]]), "dense")
    assert packed.values.tolist() == [[0, 5, 0, -3, 7]]
    assert packed.indices.shape == (1, 0)


@pytest.mark.parametrize("pattern", ["dense", "2:4", "1:4"])
@pytest.mark.parametrize("columns", [1, 4, 11])
def test_packed_layer_unpacks_to_its_weights(pattern, columns):
    weight = np.rint(100 * weights(6, columns, pattern)).astype(np.int8)
    packed = compile_layer(int8_layer(weight), pattern)
    if pattern == "dense":
        found = packed.values
    else:
        found = decompress(Compressed(packed.values, packed.indices, pattern))
        assert not found[:, columns:].any()
    np.testing.assert_array_equal(found[:, :columns], weight)


@pytest.mark.parametrize(("weight", "fields", "said"), [
    (np.ones((1 << 16, 1)), {}, "65536 rows"),
    (np.ones((1, 255 * 2048 + 1)), {}, "256 chunks of K"),
    (np.ones((1, 12)), {
        "geometry": Geometry((1, 4096, 4096), (4, 3), (1, 1), (2, 1, 1, 1), (1, 1)),
        "inputs": 1 << 24, "outputs": 1 << 24}, "16777216 columns"),
])
def test_layer_that_is_not_one_command_is_refused(weight, fields, said):
    config = TensorCoreConfig(weight_words=512, patterns=("dense",))
    with pytest.raises(BadInput, match=f"^layer big: a GEMM with {said} is not one command .*; "
                                       "make the layer smaller"):
        compile_core((int8_layer(weight, name="big", **fields),), config)


def test_layer_of_another_pattern_is_refused():
    layer = int8_layer([[1, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 3, 4, 5]])
    for pattern, place in (("2:4", r"row 1, group 1 \(columns 4 to 7\) holds 3"),
                           ("1:4", r"row 1, group 0 \(columns 0 to 3\) holds 2")):
        with pytest.raises(BadInput, match=f"{place} non-zeros, but {pattern} keeps"):
            compile_layer(layer, pattern)
