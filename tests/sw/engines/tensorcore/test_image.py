"""A tensor core's image in a program: what is written is read, and each misfit is refused."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.tensorcore import packed
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.packed import TensorCoreLayer, kept_columns
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.engines.tensorcore.sample import FILL, Sample
from zeroskip.sw.engines.wire import PIECE
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.nm import mask
from zeroskip.sw.graph.im2col import Geometry, columns
from zeroskip.sw.graph.types import TensorType

CONFIG = TensorCoreConfig(rows=4, patterns=("dense", "2:4", "1:4"))
GEOMETRY = Geometry((2, 5, 4), (3, 2), (2, 1), (1, 0, 1, 1), (1, 1))
"""K = 12; 3 x 4 positions."""
DEPTHWISE = replace(GEOMETRY, input_shape=(8, 5, 4), groups=8)
BATCH = 3


def integer(name="fc", pattern="dense", inputs=12, rows=6, geometry=None, raw=False, **fields):
    """A random layer whose weights are of a pattern."""
    rng = np.random.default_rng(3)
    k = geometry.patch if geometry else inputs
    weight = rng.integers(-128, 128, (rows, -(-k // 4) * 4)).astype(np.int8)
    if pattern != "dense":
        weight = np.where(mask(weight, pattern), weight, 0).astype(np.int8)
    return Int8Layer(**{
        "name": name, "weight": np.ascontiguousarray(weight[:, :k]),
        "bias": rng.integers(-9999, 9999, rows),
        "multiplier": np.where(raw, 0, rng.integers(0, 2**31, rows)).astype(np.int32),
        "shift": np.where(raw, 24, rng.integers(24, 56, rows)).astype(np.int32),
        "activation": "relu", "geometry": geometry,
        "input": TensorType.of(40 if geometry else inputs, np.int8, 0.25, -3),
        "output": TensorType.of(rows * (12 if geometry else 1), np.int32 if raw else np.int8,
                                0.25, -3), **fields})


def typed(layer, name, **change):
    """The layer with another input or output."""
    return replace(layer, **{name: replace(getattr(layer, name), **change)})


def sized(layer, inputs, outputs):
    """The layer with other numbers of values."""
    return typed(typed(layer, "input", shape=(inputs,)), "output", shape=(outputs,))


def layer(name="fc", pattern="dense", inputs=12, rows=6, geometry=None, **fields):
    """The same, packed."""
    own = integer(name, pattern, inputs, rows, geometry, **fields)
    return TensorCoreLayer.packed(own, pattern, CONFIG, BATCH)


IMAGES = {
    "dense": (layer(),),
    "2:4": (layer(pattern="2:4"),),
    "1:4": (layer(pattern="1:4"),),
    "K no multiple of four": (layer(pattern="2:4", inputs=13), layer("b", "1:4", 6, 5)),
    "many steps": (layer(pattern="2:4", inputs=200),),
    "convolution": (layer("conv", "2:4", geometry=GEOMETRY), layer("fc", inputs=72)),
    "groups side by side": (layer("conv", geometry=DEPTHWISE, rows=8,
                                  input=TensorType.of(160, np.int8, 0.25, -3)),),
    "groups one by one": (layer("conv", geometry=replace(GEOMETRY, groups=2), rows=8),),
    "groups all together": (layer("conv", geometry=replace(GEOMETRY, groups=2), rows=6),),
    "raw": (layer(), layer("last", inputs=6, activation="none", raw=True)),
}


@pytest.fixture
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("file") / "model.zsk"    # messages must not name the test


def reference_of(image):
    """Its layers, where they can be had."""
    try:
        return tuple(image.unpacked())
    except (ValueError, IndexError, TypeError, KeyError):
        return ()


def save(path, *layers):
    image = TensorCoreImage(CONFIG, layers, BATCH)
    Program.chain((image,), reference_of(image)).save(path)


def refuse(path, message, *layers):
    save(path, *layers)
    with pytest.raises(BadInput, match=message):
        Program.load(path)


def forge(path, change):
    """Applies ``change(header of the image, tensors)`` and makes the CRC-32 good again."""
    content = path.read_bytes()
    header = json.loads(json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
                        ["__metadata__"]["zeroskip"])
    tensors = load_file(path)
    change(header["images"][0], tensors)
    header["crc32"] = {name: zlib.crc32(t.tobytes()) for name, t in tensors.items()}
    text = json.dumps(header)
    save_file(tensors, path, {"zeroskip": text, "crc32": str(zlib.crc32(text.encode()))})


def refuse_forged(path, message, change, *layers):
    save(path, *(layers or (layer(pattern="2:4"),)))
    forge(path, change)
    with pytest.raises(BadInput, match=message):
        Program.load(path)


@pytest.mark.parametrize("name", IMAGES)
def test_round_trip(path, name):
    save(path, *IMAGES[name])
    (image,) = Program.load(path).images
    assert (image.config, image.batch) == (CONFIG, BATCH)
    for found, expected in zip(image.layers, IMAGES[name], strict=True):
        for field, value in vars(expected).items():
            loaded = getattr(found, field)
            if isinstance(value, np.ndarray):
                assert (loaded.dtype, loaded.shape) == (value.dtype, value.shape), field
                assert np.array_equal(loaded, value), field
            else:
                assert loaded == value, field


def test_what_goes_in_and_out():
    image = TensorCoreImage(CONFIG, IMAGES["convolution"], BATCH)
    assert (image.inputs, image.outputs) == (40, 6)
    assert (image.input.dtype, image.input.scale, image.input.zero_point) == (np.int8, 0.25, -3)
    assert image.output.dtype == np.int8
    assert TensorCoreImage(CONFIG, IMAGES["raw"], BATCH).output.dtype == np.int32
    assert image.traced() is image


def test_owner_of_an_output():
    image = TensorCoreImage(CONFIG, IMAGES["convolution"], BATCH)
    owners = [image.owner(image.layers[0], output) for output in range(72)]
    assert owners == [channel % 4 for channel in range(6) for _ in range(12)]
    assert [image.owner(image.layers[1], output) for output in range(6)] == [0, 1, 2, 3, 0, 1]


def test_storage_by_hand():
    """Four groups of six rows."""
    image = TensorCoreImage(CONFIG, (layer(pattern="2:4", inputs=13),), BATCH)
    assert image.storage() == {"weights": 48, "indices": 12, "biases": 24, "multipliers": 24,
                              "shifts": 6, "float32": 4 * 6 * 14}


@pytest.mark.parametrize(("columns", "pattern", "kept"), [
    (5, "dense", 5), (4, "2:4", 2), (5, "2:4", 4), (4, "1:4", 1), (5, "1:4", 2)])
def test_kept_columns(columns, pattern, kept):
    assert kept_columns(columns, pattern) == kept


# --- where values lie ---

@pytest.mark.parametrize("geometry", [
    GEOMETRY, Geometry((3, 4, 6), (2, 3), (1, 2), (0, 2, 3, 1), (2, 1)),
    Geometry((1, 1, 1), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))], ids=str)
@pytest.mark.parametrize("pattern", ["dense", "2:4", "1:4"])
def test_places_are_those_of_the_patches(geometry, pattern):
    """Every byte of every word, from im2col's patches; rows behind K are zeros."""
    k, batch = geometry.input_shape[0] * geometry.kernel[0] * geometry.kernel[1], 3
    own = sized(integer(geometry=geometry, weight=np.zeros((2, k), np.int8), rows=2),
                int(np.prod(geometry.input_shape)), 2 * geometry.positions)
    packed = TensorCoreLayer.packed(own, pattern, CONFIG, batch)
    x = np.random.default_rng(4).integers(-128, 128, (batch, packed.inputs)).astype(np.int8)
    schedule, sample = packed.schedule(CONFIG, batch), Sample.of(geometry, packed.inputs)
    values = sample.padded(x, -3)
    assert len(values) == batch * sample.size + 1
    starts = sample.starts(np.arange(schedule.n))[:, None, None]
    found = values[np.where(packed.places == FILL, FILL, starts + packed.places)]
    expected = np.zeros((schedule.n, schedule.order.size), np.int8)
    expected[:, :k] = columns(x, geometry, -3)
    np.testing.assert_array_equal(found, expected[:, schedule.order])


def test_the_batch_of_an_image_that_is_given_none():
    def batch(*layers):
        return TensorCoreImage.packed(CONFIG, *((own, "dense") for own in layers)).batch
    assert batch(integer()) == 8
    wide = Geometry((1, 32, 32), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    conv = integer(geometry=wide, weight=np.ones((1, 1), np.int8), rows=1)
    assert batch(sized(conv, 1024, 1024)) == 4
    large = replace(wide, input_shape=(1, 70, 70))
    assert batch(replace(sized(conv, 4900, 4900), geometry=large)) == 1


# --- what is refused ---

@pytest.mark.parametrize(("fields", "message"), [
    ({"pattern": "4:8"}, "pattern is '4:8', expected 'dense' or '2:4' or '1:4'"),
    ({"activation": "tanh"}, "activation is 'tanh'"),
    ({"ties": "away"}, "ties is 'away', expected 'even'; compile the model again"),
])
def test_field_out_of_range(path, fields, message):
    refuse(path, f"layer fc: {message}", replace(layer(), **fields))


@pytest.mark.parametrize(("name", "change", "message"), [
    ("output", {"dtype": np.dtype(np.int32)}, "raw is True, expected false with an activation"),
    ("input", {"shape": (0,)}, "inputs is 0"),
    ("input", {"shape": (11.0,)}, "inputs is 11.0"),
    ("output", {"shape": (-6,)}, "outputs is -6"),
    ("input", {"scale": 0.0}, "input_scale is 0.0"),
    ("output", {"scale": float("nan")}, "output_scale is nan"),
    ("output", {"scale": "1"}, "output_scale is '1'"),
    ("input", {"zero_point": 128}, "input_zero_point is 128, expected -128 to 127"),
    ("output", {"zero_point": -129}, "output_zero_point is -129"),
    ("output", {"zero_point": None}, "output_zero_point is None"),
])
def test_type_out_of_range(path, name, change, message):
    refuse(path, f"layer fc: {message}", typed(layer(), name, **change))


@pytest.mark.parametrize("raw", [0, 1, None, "true"])
def test_raw_that_is_neither_true_nor_false(path, raw):
    refuse_forged(path, f"layer fc: raw is {raw!r}, expected true or false",
                  lambda step, _: step["layers"][0].update(raw=raw))


TENSORS = pytest.mark.parametrize("name", ["command", "weights", "channels", "places"])


@TENSORS
def test_wrong_dtype(path, name):
    wrong = getattr(layer(), name).astype(np.int64)
    refuse(path, f"layer fc: {name} is int64", replace(layer(), **{name: wrong}))


@TENSORS
def test_wrong_shape(path, name):
    whole = getattr(layer(), name)
    for wrong in (whole[:, 1:], np.concatenate([whole, whole[:1]]), whole[0]):
        refuse(path, rf"layer fc: {name} is u?int32 \[.*\], expected u?int32 ",
               replace(layer(), **{name: wrong}))


@TENSORS
def test_no_word_may_differ(path, name):
    """Also where the core would compute the same: what fills words up, spare bits, rows behind
    the last."""
    for pattern, inputs in (("2:4", 13), ("1:4", 6), ("dense", 9)):
        whole = getattr(layer(pattern=pattern, inputs=inputs), name)
        for place in {(0, 0), (len(whole) - 1, whole.shape[1] - 1), (len(whole) // 2, 0)}:
            for bit in (0, 5, 31):
                wrong = whole.copy()
                wrong.view(np.uint32)[place] ^= np.uint32(1 << bit)
                own = replace(layer(pattern=pattern, inputs=inputs), **{name: wrong})
                save(path, layer(pattern=pattern, inputs=inputs))
                good = Program.load(path)
                image = TensorCoreImage(CONFIG, (own,), BATCH)
                good.with_images(image).save(path)
                with pytest.raises(BadInput, match="layer fc|not those of the reference"):
                    Program.load(path)


@pytest.mark.parametrize("value", [-2, 40, 1 << 30, -(1 << 31)])
def test_place_outside_of_the_sample(path, value):
    wrong = layer().places.copy()
    wrong[0, 3] = value
    refuse(path, "layer fc: item 0 of its places, word 3, is not that of its geometry",
           replace(layer(), places=wrong))


def test_places_of_another_geometry(path):
    other = layer(geometry=replace(GEOMETRY, dilation=(1, 2), padding=(1, 1, 1, 1)))
    refuse(path, "layer conv: item 0 of its places, word ., is not that of its geometry",
           replace(layer("conv", geometry=GEOMETRY), places=other.places))


def test_another_batch(path):
    refuse_forged(path, "layer fc: item 0 of its command, word 0, is not that of its sizes",
                  lambda step, _: step.update(batch=4))


@pytest.mark.parametrize("batch", [0, -1, 1.0, "8", None, 1 << 40])
def test_batch_that_is_none(path, batch):
    refuse_forged(path, "batch is", lambda step, _: step.update(batch=batch))


def test_batch_that_is_not_one_command(path):
    refuse_forged(path, "layer fc: a GEMM with 16777216 columns is not one command",
                  lambda step, _: step.update(batch=1 << 24))


def test_pattern_that_the_machine_does_not_have(path):
    config = TensorCoreConfig(patterns=("dense",))
    Program.chain((TensorCoreImage(config, (layer(pattern="2:4"),), BATCH),), ()).save(path)
    with pytest.raises(BadInput, match="layer fc: pattern is '2:4', expected 'dense';"):
        Program.load(path)


def two_places(first, second):
    """A 2:4 layer whose third row has these places in its first group."""
    own, wrong = layer(pattern="2:4"), layer(pattern="2:4").weights.copy()
    bits = np.unpackbits(wrong[:1].view(np.uint8), bitorder="little")
    bits[2 * 40 + 32:2 * 40 + 36] = first & 1, first >> 1, second & 1, second >> 1
    wrong[0] = np.packbits(bits, bitorder="little").view("<u4")
    return replace(own, weights=wrong)


@pytest.mark.parametrize("places", [(2, 2), (3, 1)])
def test_places_that_do_not_ascend(path, places):
    refuse(path, r"layer fc: item 0 of its weights, word \d, is not that of its weights",
           two_places(*places))


@TENSORS
def test_missing_tensor(path, name):
    refuse_forged(path, f"layer0.{name}", lambda _, t: t.pop(f"image0.layer0.{name}"))


@pytest.mark.parametrize("key", ["name", "pattern", "activation", "geometry", "inputs", "outputs",
                                 "input_scale", "input_zero_point", "output_scale",
                                 "output_zero_point", "raw"])
def test_missing_key(path, key):
    refuse_forged(path, key, lambda step, _: step["layers"][0].pop(key))


@pytest.mark.parametrize(("change", "message"), [
    ({"kernel": [0, 2]}, "layer conv: kernel must be"),
    ({"stride": [1]}, "layer conv: stride must be"),
    ({"padding": [1, 0, -1, 0]}, "layer conv: padding must be"),
    ({"dilation": [1, "2"]}, "layer conv: dilation must be"),
    ({"kernel": [9, 9]}, "layer conv: a kernel of"),
    ({"colour": [1]}, "layer conv: .*colour"),
    ({"kernel": 3}, "layer conv: .*len"),
    ({"groups": 3}, "layer conv: groups must divide the 2 channels"),
    ({"groups": [1]}, "layer conv: groups must divide"),
    ({"input_shape": [2, 5, 5]}, "layer conv: inputs is 40, expected 50"),
    ({"stride": [1, 1]}, "layer conv: outputs is 72, expected a multiple of its 20 positions"),
    ({"kernel": [3, 1], "padding": [1, 0, 1, 0]},
     r"layer conv: weights is uint32 \[4, 5\], expected uint32 \[2, 5\]"),
])
def test_geometry_that_does_not_fit(path, change, message):
    refuse_forged(path, message, lambda step, _: step["layers"][0]["geometry"].update(change),
                  layer("conv", "2:4", geometry=GEOMETRY))


@pytest.mark.parametrize("geometry", [7, [1], "text"])
def test_geometry_that_is_no_object(path, geometry):
    refuse_forged(path, "does not hold together",
                  lambda step, _: step["layers"][0].update(geometry=geometry))


def test_image_without_layers(path):
    refuse_forged(path, "0 layers", lambda step, _: step["layers"].clear())


def test_layers_that_do_not_follow_one_another(path):
    refuse(path, "layer b: inputs is 7, expected 6 to 6", layer(), layer("b", inputs=7))


@pytest.mark.parametrize(("change", "taken"), [
    ({"scale": 0.5}, "0.5 and zero point -3"), ({"zero_point": 0}, "0.25 and zero point 0")])
def test_layers_of_other_scales(path, change, taken):
    refuse(path, rf"layer b: takes int8 \[6\] of scale {taken}, but layer fc gives int8 \[6\] of "
                 "scale 0.25 and zero point -3", layer(),
           typed(layer("b", inputs=6), "input", **change))


def test_raw_layer_that_is_not_the_last(path):
    refuse(path, "layer fc: raw is True, but it is not the last", layer(
        raw=True, activation="none"), layer("b", inputs=6))


LARGE = Geometry((1, 4096, 4096), (4, 3), (1, 1), (2, 1, 1, 1), (1, 1))
"""K = 12; 2^24 positions."""


@pytest.mark.parametrize(("inputs", "outputs", "geometry", "said"), [
    (12, 1 << 16, None, "65536 rows"), (4 * 1024 * 255 + 1, 6, None, "256 chunks of K"),
    (1 << 24, 1 << 24, LARGE, "50331648 columns")], ids=["rows", "chunks", "positions"])
def test_layer_that_is_not_one_command(path, inputs, outputs, geometry, said):
    refuse(path, f"layer fc: a GEMM with {said} is not one command",
           replace(sized(layer(), inputs, outputs), geometry=geometry))


def test_unknown_field_of_the_configuration(path):
    refuse_forged(path, "colour", lambda step, _: step["config"].update(colour=1))


def test_configuration_changed_under_its_digest(path):
    refuse_forged(path, "digest", lambda step, _: step["config"].update(columns=7))


# --- bound to the reference, and within memory ---

@pytest.mark.parametrize("change", [
    {"input_scale": 0.5}, {"output_scale": 0.5}, {"input_zero_point": 4}, {"name": "other"}],
    ids=str)
def test_what_the_reference_does_not_say(path, change):
    refuse_forged(path, "not those of the reference|but step 0 has int8",
                  lambda step, _: step["layers"][0].update(change))


@pytest.mark.parametrize("change", [{"output_zero_point": 4}, {"activation": "none"}], ids=str)
def test_what_the_command_does_not_say(path, change):
    refuse_forged(path, "item 0 of its command, word .*, is not that of its sizes",
                  lambda step, _: step["layers"][0].update(change))


@pytest.mark.parametrize("name", ["weights", "channels"])
def test_tensor_that_the_reference_does_not_have(path, name):
    def change(_, tensors):
        tensors[f"image0.layer0.{name}"][1, 0] ^= 4
    refuse_forged(path, "not those of the reference", change)


def test_type_of_the_input(path):
    """Integers of a model that are taken for real values would be scaled once more."""
    image = TensorCoreImage(CONFIG, (layer(),), BATCH)
    Program.chain((image,), image.unpacked(), "uint8").save(path)
    assert Program.load(path).inputs[0].dtype == "uint8"
    content = path.read_bytes()
    for other in ("float32", "int8"):
        path.write_bytes(content)
        header = json.loads(load_header(path))
        header["inputs"][0]["dtype"] = other
        text = json.dumps(header)
        save_file(load_file(path), path, {"zeroskip": text,
                                          "crc32": str(zlib.crc32(text.encode()))})
        with pytest.raises(BadInput, match="not those of the reference"):
            Program.load(path)


def load_header(path):
    content = path.read_bytes()
    return json.loads(content[8:8 + int.from_bytes(content[:8], "little")])[
        "__metadata__"]["zeroskip"]


@pytest.mark.parametrize("fields", [
    {"pattern": "dense"}, {"pattern": "2:4"}, {"pattern": "1:4"}, {"pattern": "2:4", "inputs": 13},
    {"pattern": "1:4", "inputs": 200}, {"pattern": "2:4", "geometry": GEOMETRY},
    {"activation": "none", "raw": True}], ids=str)
def test_unpacked_is_what_was_packed(fields):
    own = integer(**fields)
    found = layer(**fields).unpacked(CONFIG, BATCH)
    for name, value in vars(own).items():
        loaded = getattr(found, name)
        if isinstance(value, np.ndarray):
            assert (loaded.dtype, loaded.tolist()) == (value.dtype, value.tolist()), name
        else:
            assert loaded == value, name


def test_overflow_is_proved_again(path):
    bias = np.full(6, (1 << 31) - 9)
    refuse(path, "layer fc, row .: a sum can reach 2147.*, which int32 does not hold",
           layer(bias=bias))


@pytest.mark.parametrize(("sizes", "message"), [
    ({"weight_words": 10**6}, "buffers have about 8,016,384 words, at most 262,144"),
    ({"rows": 128, "columns": 128, "weight_words": 64, "activation_words": 64},
     "has about 65,536 multipliers, at most 4,096"),
])
def test_core_that_takes_too_long_to_build(path, sizes, message):
    Program.chain((TensorCoreImage(replace(CONFIG, **sizes), (layer(),), BATCH),), ()).save(path)
    with pytest.raises(BadInput, match=message):
        Program.load(path)


def test_core_of_a_trillion_rows(path):
    refuse_forged(path, f"rows must be at most 256, not {1 << 40}",
                  lambda step, _: step["config"].update(rows=1 << 40))


@pytest.mark.parametrize(("padding", "message"), [
    ([30_000] * 4, "takes 7,201,.* values a sample, at most 268,435,456"),
    ([1 << 62, 0, 0, 0], "padding must be at most 65536"),
])
def test_padding_that_fills_the_memory(path, padding, message):
    def change(step, _):
        step["layers"][0]["geometry"].update(padding=padding, stride=[9999, 9999])
    refuse_forged(path, message, change, layer(geometry=GEOMETRY))


def test_batch_that_fills_the_memory():
    image = Geometry((2, 2000, 2000), (3, 2), (1, 1), (0, 0, 0, 0), (1, 1))
    many = sized(replace(layer(), geometry=image), 8_000_000, 6 * image.positions)
    many.check_size(CONFIG, 1)
    with pytest.raises(BadInput, match="a batch of 4 takes about .* bytes of memory, at most 4,29"):
        many.check_size(CONFIG, 4)
    outputs = sized(many, 8_000_000, 600 * many.positions)
    with pytest.raises(BadInput, match="a batch of 1 takes about .* bytes of memory, at most 4,29"):
        outputs.check_size(CONFIG, 1)
    with pytest.raises(BadInput, match="a batch of 1 takes about .* multiplications, at most 68,7"):
        sized(many, 8_000_000, 6000 * many.positions).check_size(CONFIG, 1)


def test_bytes_of_a_batch_by_hand(monkeypatch):
    """A column of tiles takes the whole buffer, so 899 positions make 225 blocks, each with all
    weights: 250 panels of 250 steps do not stay. They are sent a piece at a time."""
    image = Geometry((1000, 29, 31), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    wide = sized(replace(layer(), geometry=image), 899_000, 899_000)
    wide.check_size(replace(CONFIG, activation_words=63), 1)
    monkeypatch.setattr(packed, "HOST", 1)
    taken = 20 * (4 * PIECE + 4 * 1000 + 225 * 4 * 63 * 16) + 40 * 899_000 + 2 * 899_000
    with pytest.raises(BadInput, match=f"a batch of 1 takes about {taken:,} bytes of memory"):
        wide.check_size(replace(CONFIG, activation_words=63), 1)


def test_bytes_of_a_batch_whose_weights_stay():
    """Two panels of one step: one load for 6 blocks of columns."""
    image = Geometry((1, 400, 400), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    own = sized(replace(layer(), geometry=image), 160_000, 960_000)
    schedule = own.schedule(replace(CONFIG, activation_words=16), 90)
    assert schedule.keep
    taken = 20 * (2 * 4 * 1 * 4 + 14_400_000 * 16) + 40 * 6 * 14_400_000 + 2 * 14_400_000
    with pytest.raises(BadInput, match=f"a batch of 90 takes about {taken:,} bytes of memory"):
        own.check_size(replace(CONFIG, activation_words=16), 90)
