"""The memory images, walked as the machine walks them, give back exactly the layers."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw.compiler.compile import storage
from zeroskip.sw.compiler.eie import compile_layers
from zeroskip.sw.errors import BadInput
from zeroskip.sw.pack.eie import Packed, unpack
from zeroskip.sw.program import Program
from zeroskip.sw.quantize.fixed import FixedLayer


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
