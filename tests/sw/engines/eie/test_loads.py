"""Layers that are larger than an array's memories: cut into blocks, run in loads in RTL."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie.blocks import lower
from zeroskip.sw.engines.eie.cycle_model import predict
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.loads import EIELoads
from zeroskip.sw.engines.eie.lower import Misfit, compile_layers
from zeroskip.sw.errors import BadInput
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.verify import verify

SMALL = EIEConfig(pes=2, weight_rows=4, pointers=32, act_depth=8, bias_depth=8, block=8,
                  acc_depth=8, descriptors=2)
ARRAYS = {
    "counts": SMALL,
    "groups": replace(SMALL, pes=4, groups=2, weight_rows=3, broadcast_latency=2),
    "paper": replace(SMALL, escapes=False, drops_empty=False, counts=False, acc_depth=3, block=2,
                     descriptors=4),
}
"""Tiny memories: of everything that a layer can have too much of."""


def run(image, layers, batch, seed):
    """Random samples in RTL against the integer reference; the result."""
    program = Program.chain((image,), layers)
    x = np.random.default_rng(seed).integers(-300, 300, (batch, image.inputs)).astype(np.int16)
    x[np.random.default_rng(seed).random(x.shape) < 0.4] = 0
    verdict = verify(program, x, (GoldenBackend(program, layers), backends.rtl("cxxrtl")))
    assert verdict.difference is None
    assert verdict.compared == batch * sum(layer.output.size for layer in layers)
    return verdict.results[1][0]


def shape(image):
    """Blocks of columns in each block of rows, of each layer."""
    return [[len(row) for row in layer.rows] for layer in image.layers]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("array", ARRAYS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 45), min_size=2, max_size=3),
       density=st.sampled_from([0, 0.1, 0.4, 1]), samples=st.integers(1, 4),
       batch=st.integers(1, 6), seed=st.integers(0, 99))
def test_any_size_is_exact(array, sizes, density, samples, batch, seed):
    config = ARRAYS[array]
    layers = tuple(random_layers(np.random.default_rng(seed), sizes, density))
    image = lower(layers, config, samples)
    image.check()
    result = run(image, layers, batch, seed)
    for found, own in zip(image.unpacked(), layers, strict=True):
        np.testing.assert_array_equal(found.weight, own.weight)
        np.testing.assert_array_equal(found.bias, own.bias)
    if isinstance(image, EIELoads):
        assert result.statistics.loads == sum(
            len(row) * (-(-batch // layer.samples) if len(row) > 1 else 1)
            for layer in image.layers for row in layer.rows)


@pytest.mark.parametrize(("outputs", "inputs", "density", "changes", "expected"), [
    # room for 16 rows and one sample; 32 bytes a PE; 32 counts; 16 inputs
    (40, 8, 0.3, {"bias_depth": 64}, [[1, 1, 1]]),
    (40, 8, 0.3, {"act_depth": 64, "acc_depth": 64}, [[1, 1, 1]]),
    (16, 16, 1, {}, [[4]]),
    (16, 40, 0.2, {"act_depth": 64, "block": 64, "weight_rows": 64}, [[2]]),
    (16, 40, 0.2, {"weight_rows": 64, "pointers": 512}, [[3]]),
    (40, 40, 0.9, {}, [[10, 10, 8]]),
], ids=["rows by sums", "rows by biases", "columns by weights", "columns by counts",
        "columns by inputs", "all"])
def test_each_kind_of_cut(outputs, inputs, density, changes, expected):
    layers = tuple(random_layers(np.random.default_rng(3), (inputs, outputs), density))
    image = lower(layers, replace(SMALL, **changes), 1)
    assert shape(image) == expected
    image.check()
    for found, own in zip(image.unpacked(), layers, strict=True):
        np.testing.assert_array_equal(found.weight, own.weight)


def test_what_fits_is_loaded_once_as_ever():
    layers = tuple(random_layers(np.random.default_rng(2), (12, 9, 5), 0.3))
    config = replace(SMALL, weight_rows=32, pointers=64, bias_depth=32)
    image, before = lower(layers, config, 3), compile_layers(layers, config)
    assert isinstance(image, EIEImage)
    assert image.header() == before.header()
    assert {name: tensor.tobytes() for name, tensor in image.tensors().items()} == {
        name: tensor.tobytes() for name, tensor in before.tensors().items()}


def test_a_layer_that_only_together_with_others_is_too_large():
    layers = tuple(random_layers(np.random.default_rng(2), (12, 9, 12), 0.3))
    with pytest.raises(Misfit):
        compile_layers(layers, SMALL)
    assert shape(lower(layers, SMALL, 1)) == [[1], [1]]


def test_samples_share_a_load_while_their_sums_have_room():
    """Twice as many at a time halve the loads; more do not fit beside one another."""
    layers = tuple(random_layers(np.random.default_rng(4), (40, 4), 0.6))
    loads = {samples: run(lower(layers, SMALL, samples), layers, 8, 1).statistics.loads
             for samples in (1, 2, 4)}
    assert [loads[1] // loads[samples] for samples in (2, 4)] == [2, 4]
    image = lower(layers, SMALL, 99)
    assert [layer.samples for layer in image.layers] == [8]      # a word each


def test_what_is_loaded_is_counted():
    layers = tuple(random_layers(np.random.default_rng(4), (40, 20), 0.6))
    image = lower(layers, SMALL, 2)
    statistics, facts = run(image, layers, 2, 1).statistics, image.layers[0].facts()["reload"]
    clear = 2       # the counters are cleared once: a load word has two words
    assert facts == {"samples": 2, "loads": statistics.loads, "bytes": 4 * facts["words"],
                     "words": statistics.load_words - clear}
    assert statistics.as_json()["load_bytes"] == 4 * statistics.load_words


def test_the_cycle_model_knows_each_block():
    layers = tuple(random_layers(np.random.default_rng(4), (40, 20), 0.6))
    image = lower(layers, SMALL, 2)
    program = Program.chain((image,), layers)
    x = np.random.default_rng(1).integers(1, 300, (1, 40)).astype(np.int16)
    cycles = verify(program, x, (GoldenBackend(program, layers), backends.rtl("cxxrtl"))
                    ).results[1][0].statistics.cycles
    model = 0
    for row in image.layers[0].rows:
        left = 0
        for block in row:
            model += predict(block, x[0, left:left + block.inputs])
            left += block.inputs
    assert model == pytest.approx(cycles, rel=0.02)


def test_a_program_file_holds_it(tmp_path):
    layers = tuple(random_layers(np.random.default_rng(4), (40, 20, 30), 0.6))
    program = Program.chain((lower(layers, SMALL, 2),), layers)
    program.save(tmp_path / "a.zsk")
    found = Program.load(tmp_path / "a.zsk").images[0]
    assert (found.header(), found.input, found.output) == (
        program.images[0].header(), program.input, program.output)
    for name, tensor in program.images[0].tensors().items():
        np.testing.assert_array_equal(found.tensors()[name], tensor)


def test_owners_and_storage():
    layers = tuple(random_layers(np.random.default_rng(4), (40, 20), 0.6))
    image = lower(layers, SMALL, 2)
    grid, sizes = image.layers[0], image.storage()
    for output in range(20):
        row, position = grid.order[output]
        block = grid.rows[row][0]
        assert image.owner(grid, output) == position % 2
        assert block.order[position] == output - sum(each[0].outputs for each in grid.rows[:row])
    assert sizes["weights"] == sum(-(-block.layers[0].entries // 2) for block in grid.blocks)
    assert (sizes["biases"], sizes["codebooks"], sizes["float32"]) == (80, 32, 4 * 20 * 41)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_smallest_memories_that_there_are(counts, groups):
    """Two bytes rows, two activations: a column at a time, if need be."""
    least = dict.fromkeys(("weight_rows", "act_depth", "bias_depth", "descriptors"), 2)
    config = EIEConfig(pes=2, groups=groups, counts=counts, pointers=16 if counts else 2, block=1,
                       acc_depth=1, codebooks=1, **least)
    layers = tuple(random_layers(np.random.default_rng(5), (9, 7, 3), 0.8))
    with pytest.raises(BadInput, match="does not fit the configuration with 2 PEs"):
        compile_layers(layers, config)
    image = lower(layers, config, 5)
    image.check()
    assert {block.inputs for block in image.layers[0].blocks} <= {1, 2, 4}
    assert [layer.samples for layer in image.layers] == [2, 2]
    for found, own in zip(image.unpacked(), layers, strict=True):
        np.testing.assert_array_equal(found.weight, own.weight)


def grid_with(image, row, column, **changes):
    """The image with a block of its first layer changed."""
    grid = image.layers[0]
    rows = [list(each) for each in grid.rows]
    rows[row][column] = replace(rows[row][column], **changes)
    return replace(image, layers=(replace(grid, rows=tuple(map(tuple, rows))), *image.layers[1:]))


@pytest.fixture
def cut():
    layers = tuple(random_layers(np.random.default_rng(4), (40, 20), 0.6))
    image = lower(layers, SMALL, 2)
    assert len(image.layers[0].rows) > 1
    assert min(map(len, image.layers[0].rows)) > 1
    return image


def test_blocks_that_do_not_belong_together(cut):
    grid = cut.layers[0]
    block = grid.rows[0][0]
    info = block.layers[0]
    biases = block.biases.copy()
    biases[0, 0] = 1
    for changed, message in (
            (grid_with(cut, 0, 0, biases=biases), "a block before the last has biases or a shift"),
            (grid_with(cut, 0, 0, codebooks=block.codebooks[:, ::-1].copy()),
             "different codebooks"),
            (grid_with(cut, 0, 0, order=block.order[::-1].copy()), "do not add up to one layer"),
            (grid_with(cut, 0, 0, layers=(replace(info, name="b"),)), "do not add up to one layer"),
            (replace(cut, layers=(replace(grid, rows=(grid.rows[0][1:], *grid.rows[1:])),)),
             "its columns are not"),
            (replace(cut, layers=(replace(grid, samples=3),)), "samples is 3, expected 1 to 2")):
        with pytest.raises(ValueError, match=message):
            changed.check()
