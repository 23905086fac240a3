"""The program file: what is written is read, and damage of any kind is refused."""

import json
import random
import zlib
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw.compiler import program as program_module
from zeroskip.sw.compiler.program import Port, Program
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.types import TensorType

TENSORS = ("step0.entries", "step0.pointers", "step0.biases", "step0.codebooks",
           "step0.order")


def layer(name, outputs, inputs, seed, activation="relu", input_scale=0.125):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, 16, (outputs, inputs), dtype=np.uint8)
    indices[rng.random(indices.shape) < 0.5] = 0
    codebook = rng.integers(-99, 99, 16).astype(np.int16)
    codebook[0] = 0
    return FixedLayer(
        name=name, activation=activation, indices=indices, codebook=codebook,
        bias=rng.integers(-99, 99, outputs), shift=3,
        input=TensorType.of(inputs, np.int16, input_scale),
        output=TensorType.of(outputs, np.int16, 0.125))


def compiled(*images):
    """A program of images, each given as its layers and configuration."""
    return Program.chain([compile_layers(own, config) for own, config in images],
                         [layer for own, _ in images for layer in own])


FIRST = ((layer("fc1", 6, 9, 1, input_scale=0.25), layer("fc2", 5, 6, 2, "none")),
         EIEConfig(pes=2, acc_depth=2))


@pytest.fixture(scope="module")
def program():
    return compiled(FIRST)


@pytest.fixture
def path(program, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.zsk"    # messages must not name the test
    program.save(path)
    return path


@pytest.fixture(scope="module")
def content(program, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "model.zsk"
    program.save(path)
    return path.read_bytes()


def outcome(path, content):
    """``"refused"``, or what happened in its place."""
    path.unlink(missing_ok=True)    # a new file is several times faster than a truncated one
    path.write_bytes(content)
    try:
        Program.load(path)
    except BadInput:
        return "refused"
    except Exception as error:
        return repr(error)
    return "accepted"


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def check_flips(tmp_path, content, bits):
    found = {bit: outcome(tmp_path / "flipped.zsk", flipped(content, bit)) for bit in bits}
    assert {bit: what for bit, what in found.items() if what != "refused"} == {}


def forge(path, change):
    """Applies ``change(header, tensors)`` to a program and makes every CRC-32 good again."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8:8 + length])["__metadata__"]["zeroskip"])
    tensors = load_tensors(content)
    change(header, tensors)
    header["crc32"] = {name: zlib.crc32(t.tobytes()) for name, t in tensors.items()}
    write(path, json.dumps(header), tensors)


def step_of(header):
    """What the header says of the first step."""
    return header["steps"][0]


def write(path, text, tensors):
    path.write_bytes(save_tensors(tensors, {"zeroskip": text,
                                            "crc32": str(zlib.crc32(text.encode()))}))


def check_forged(path, change, message):
    forge(path, change)
    with pytest.raises(BadInput, match=message):
        Program.load(path)


def check_same(found, expected):
    for name, value in vars(expected).items():
        loaded = getattr(found, name)
        if isinstance(value, np.ndarray):
            assert loaded.dtype == value.dtype
            assert np.array_equal(loaded, value), name
        else:
            assert loaded == value, name


def test_round_trip(program, path):
    loaded = Program.load(path)
    assert loaded.reference == program.reference
    assert loaded.inputs == program.inputs == (Port("input", "float32", "input"),)
    check_same(loaded.images[0], program.images[0])


def test_network_without_any_weight(tmp_path):
    empty = replace(layer("zero", 3, 4, 0, "none"), indices=np.zeros((3, 4), np.uint8),
                    codebook=np.zeros(16, np.int16))
    compiled(((empty,), EIEConfig(pes=2))).save(tmp_path / "zero.zsk")
    assert Program.load(tmp_path / "zero.zsk").images[0].entries.shape == (2, 0)


def test_forging_alone_changes_nothing(program, path):
    forge(path, lambda _header, _tensors: None)
    assert Program.load(path).images[0].segments == program.images[0].segments


def test_traced_program_sends_every_layer(program):
    assert [s.outputs for s in program.traced().images[0].segments if s.swap] == [
        layer.slots for layer in program.layers]


def test_traced_program_can_be_saved(program, tmp_path):
    program.traced().save(tmp_path / "traced.zsk")
    assert Program.load(tmp_path / "traced.zsk").images[0].segments \
        == program.traced().images[0].segments


def test_every_truncation_is_refused(tmp_path, content):
    found = {length: outcome(tmp_path / "short.zsk", content[:length])
             for length in range(len(content))}
    assert {length: what for length, what in found.items() if what != "refused"} == {}


def test_bytes_behind_the_end_are_refused(tmp_path, content):
    assert outcome(tmp_path / "long.zsk", content + b"\0") == "refused"


def test_bit_flips_in_the_first_64_bytes(tmp_path, content):
    check_flips(tmp_path, content, range(64 * 8))


def test_bit_flips_in_the_metadata(tmp_path, content):
    start = content.index(b"zeroskip") * 8
    check_flips(tmp_path, content, range(start, start + 1000))


def test_bit_flips_where_the_tensors_begin(tmp_path, content):
    start = (8 + int.from_bytes(content[:8], "little")) * 8
    check_flips(tmp_path, content, range(start - 400, start + 600))


def test_random_bit_flips(tmp_path, content):
    check_flips(tmp_path, content, random.Random(1).sample(range(len(content) * 8), 2000))


def test_wrong_version(path):
    check_forged(path, lambda header, _: header.update(version=99), "version 99.*reads version 6")


def test_wrong_digest(path):
    check_forged(path, lambda header, _: step_of(header).update(digest="0" * 16), "digest")


def test_configuration_changed_under_its_digest(path):
    check_forged(path, lambda header, _: step_of(header)["config"].update(acc_width=31), "digest")


def test_unknown_field_of_the_configuration(path):
    check_forged(path, lambda header, _: step_of(header)["config"].update(colour=1), "colour")


def test_key_twice_in_the_header(path):
    header = json.dumps({"version": 1})
    write(path, header[:-1] + ', "version": 1}', load_tensors(path.read_bytes()))
    with pytest.raises(BadInput, match="twice"):
        Program.load(path)


def test_key_twice_in_the_safetensors_header(path, content):
    text = content[8:8 + int.from_bytes(content[:8], "little")].rstrip()
    text = text[:-1] + b',"__metadata__":{}}'
    data = content[8 + int.from_bytes(content[:8], "little"):]
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(BadInput, match="twice"):
        Program.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"text"', "null", "[" * 100_000])
def test_header_that_is_no_object(path, text):
    write(path, text, load_tensors(path.read_bytes()))
    with pytest.raises(BadInput, match="header is not readable"):
        Program.load(path)


@pytest.mark.parametrize("key", [
    "version", "reference", "batch", "inputs", "outputs", "buffers", "steps"])
def test_key_missing_in_the_header(path, key):
    check_forged(path, lambda header, _: header.pop(key), key)


@pytest.mark.parametrize("key", ["engine", "config", "digest", "input_scale", "layers",
                                 "segments", "reads", "writes"])
def test_key_missing_in_a_step(path, key):
    check_forged(path, lambda header, _: step_of(header).pop(key), key)


@pytest.mark.parametrize("steps", [7, None, [7], ["eie"], [[]], {"engine": "eie"}])
def test_steps_that_are_no_list_of_objects(path, steps):
    check_forged(path, lambda header, _: header.update(steps=steps), "does not hold together")


def test_program_without_steps(path):
    check_forged(path, lambda header, _: header.update(steps=[]), "0 steps")


@pytest.mark.parametrize("dtype", ["int16", "", 7, None, ["uint8"]])
def test_unknown_type_of_the_input(path, dtype):
    check_forged(path, lambda header, _: header["inputs"][0].update(dtype=dtype),
                 "type of the input 'input' is .*, expected 'float32'")


def test_array_cannot_take_the_integers_of_a_model(path):
    check_forged(path, lambda header, _: header["inputs"][0].update(dtype="uint8"),
                 "type of the input 'input' is 'uint8', expected 'float32'")


def test_unknown_engine(path):
    check_forged(path, lambda header, _: step_of(header).update(engine="gpu"),
                 "step 0 is for the engine 'gpu', expected eie or tensorcore")


def test_tensor_of_no_image(path):
    check_forged(path, lambda _, tensors: tensors.update(other=np.zeros(3, np.int8)),
                 "tensor 'other' belongs to no layer")


@pytest.mark.parametrize("crcs", [[], 7, None, "text"])
def test_crcs_that_are_no_object(path, crcs):
    content = path.read_bytes()
    text = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    header = json.loads(text["__metadata__"]["zeroskip"])
    write(path, json.dumps({**header, "crc32": crcs}), load_tensors(content))
    with pytest.raises(BadInput):
        Program.load(path)


@pytest.mark.parametrize("name", TENSORS)
def test_missing_tensor(path, name):
    check_forged(path, lambda _, tensors: tensors.pop(name), name.removeprefix("step0."))


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_dtype(path, name):
    def change(_, tensors):
        tensors[name] = tensors[name].astype(np.int64)
    check_forged(path, change, f"step 0 .*'{name.removeprefix('step0.')}' is int64")


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_number_of_rows(path, name):
    def change(_, tensors):
        tensors[name] = tensors[name][:1].copy()
    check_forged(path, change, f"'{name.removeprefix('step0.')}' is ")


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_dimensions(path, name):
    def change(_, tensors):
        tensors[name] = tensors[name][None].copy()
    check_forged(path, change, f"'{name.removeprefix('step0.')}' is ")


@pytest.mark.parametrize(("change", "message"), [
    (lambda step: step.update(input_scale=0.0), "step 0 .*input_scale is 0.0"),
    (lambda step: step["layers"][0].update(stride=3), "step 0 .*layer fc1: stride is 3"),
    (lambda step: step["segments"][1].update(limit=8), "step 0 .*segment 1: limit is 8"),
    (lambda step: step["segments"].pop(), "step 0 .*the list of 3 segments does not fit"),
    (lambda step: step["layers"][0].pop("slots"), "does not hold together .*slots"),
    (lambda step: step["segments"][0].update(rows=2), "does not hold together .*rows"),
])
def test_every_image_checks_itself(path, change, message):
    check_forged(path, lambda header, _: change(step_of(header)), message)


def test_metadata_changed_without_its_crc(path, content):
    metadata = {"zeroskip": json.dumps({"version": 1}), "crc32": "0"}
    path.write_bytes(save_tensors(load_tensors(content), metadata))
    with pytest.raises(BadInput, match="header is damaged"):
        Program.load(path)


@pytest.mark.parametrize("metadata", [None, {"other": "text"}])
def test_safetensors_file_that_is_no_program(tmp_path, metadata):
    (tmp_path / "weights").write_bytes(save_tensors({"w": np.zeros(3, np.float32)}, metadata))
    with pytest.raises(BadInput, match="not a zeroskip program"):
        Program.load(tmp_path / "weights")


@pytest.mark.parametrize("content", [
    b"", b"short", b"PK\3\4 some archive", bytes(100), b"\xff" * 100, b"\2\0\0\0\0\0\0\0[]",
    (100_000).to_bytes(8, "little") + b"[" * 100_000], ids=[
        "empty", "short", "archive", "zeros", "ones", "list", "nested"])
def test_file_that_is_no_safetensors(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        Program.load(tmp_path / "file")


def test_missing_file(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        Program.load(tmp_path / "missing.zsk")


def test_directory(tmp_path):
    with pytest.raises(BadInput, match=str(tmp_path)):
        Program.load(tmp_path)


def test_header_holds_the_format_as_documented(program, content):
    text = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    header = json.loads(text["zeroskip"])
    assert header["version"] == program_module.VERSION
    (step,) = header["steps"]
    assert step["engine"] == "eie"
    assert step["digest"] == program.images[0].config.digest()
    assert step["config"] == asdict(program.images[0].config)
    assert text["crc32"] == str(zlib.crc32(text["zeroskip"].encode()))


def second_image(inputs, scale=0.125):
    """One layer of ``inputs`` on another machine."""
    return (layer("fc3", 3, inputs, 5, input_scale=scale),), EIEConfig(pes=1)


def test_two_images(tmp_path):
    both = compiled(FIRST, second_image(5))
    both.save(tmp_path / "both.zsk")
    loaded = Program.load(tmp_path / "both.zsk")
    for found, expected in zip(loaded.images, both.images, strict=True):
        check_same(found, expected)
    assert [layer.name for layer in loaded.layers] == ["fc1", "fc2", "fc3"]
    assert (loaded.input.shape, loaded.output.shape) == ((9,), (3,))
    assert (loaded.input.scale, loaded.output.scale) == (0.25, 0.125)


def test_images_that_do_not_follow_one_another(path):
    compiled(FIRST, second_image(6)).save(path)
    with pytest.raises(BadInput, match="5 values, expected a multiple of the 6"):
        Program.load(path)


def test_misfit_names_its_image(path):
    compiled(FIRST, second_image(5, 0.0)).save(path)
    with pytest.raises(BadInput, match=r"step 2 \(eie\): input_scale is 0\.0"):
        Program.load(path)


def test_equal_programs_are_equal_files(program, tmp_path):
    for name in ("a", "b"):
        replace(program).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# --- bound to the reference ---

@pytest.mark.parametrize(("change", "message"), [
    (lambda step, _: step.update(input_scale=0.5),
     r"'input' is int16 \[9\] of scale 0.25 .* step 0 has int16 \[9\] of scale 0.5"),
    (lambda step, _: step["layers"][0].update(output_scale=0.5), "not those of the reference"),
    (lambda step, _: step["layers"][1].update(output_scale=0.5),
     r"'fc2' is int16 \[5\] of scale 0.125 .* step 0 has int16 \[5\] of scale 0.5"),
    (lambda step, _: step["layers"][1].update(name="other"), "not those of the reference"),
    (lambda step, _: step["layers"][0].update(activation="none"), "relu is 1, expected 0"),
    (lambda step, _: step["layers"][0].update(nonzeros=3), "layer fc1: nonzeros is 3, expected"),
    (lambda step, _: step["layers"][1].update(entries=3), "layer fc2: entries is 3, expected"),
    (lambda step, _: step["layers"][1].update(padding=9), "layer fc2: padding is 9, expected"),
    (lambda _, tensors: flip(tensors["step0.entries"], (0, 0), 0), "reference|leaves|nonzeros"),
    (lambda _, tensors: flip(tensors["step0.codebooks"], (1, 1), 3), "not those of the reference"),
    (lambda _, tensors: flip(tensors["step0.codebooks"], (1, 0), 3), "index 0 stands for 8"),
    (lambda _, tensors: flip(tensors["step0.biases"], (1, 0), 5), "not those of the reference"),
    (lambda _, tensors: swap(tensors["step0.order"]), "not those of the reference"),
])
def test_what_the_reference_does_not_say(path, change, message):
    check_forged(path, lambda header, tensors: change(step_of(header), tensors), message)


@pytest.mark.parametrize("change", [
    lambda header: (step_of(header).update(input_scale=0.5),
                    header["buffers"][0].update(scale=0.5)),
    lambda header: (step_of(header)["layers"][1].update(output_scale=0.5),
                    header["buffers"][1].update(scale=0.5)),
    lambda header: header["buffers"][0].update(shape=[3, 3]),
    lambda header: header["buffers"][1].update(shape=[5, 1])])
def test_what_buffers_say_is_bound_to_the_reference(path, change):
    check_forged(path, lambda header, _: change(header), "not those of the reference")


@pytest.mark.parametrize(("change", "message"), [
    (lambda header: header["buffers"].append(header["buffers"][0]), "two buffers have one name"),
    (lambda header: header["buffers"].pop(), "no buffer 'fc2' for 'fc2'"),
    (lambda header: header["buffers"].reverse(), r"buffers are \['fc2', 'input'\]"),
    (lambda header: header["buffers"][0].update(dtype="int8"), "'input' is int8 .* has int16"),
    (lambda header: header["buffers"][0].update(dtype="float32"), "'input' is float32 .* int16"),
    (lambda header: header["buffers"][0].update(dtype="thing"), "does not hold together .*thing"),
    (lambda header: header["buffers"][1].update(scale="1"), "'fc2' is int16 .* scale '1' and"),
    (lambda header: header["buffers"][0].update(zero_point=3), "'input' is .* zero point 3, but"),
    (lambda header: header["buffers"][0].update(shape=[4]), "'input' has 4 values, expected a mul"),
    (lambda header: header["buffers"][0].update(shape=7), "does not hold together"),
    (lambda header: step_of(header).update(reads=["fc2"]), "step 0 reads 'fc2', which no"),
    (lambda header: step_of(header).update(reads=["input"] * 2), "step 0 reads"),
    (lambda header: step_of(header).update(writes=[]), "expected|buffers are"),
    (lambda header: header["steps"].append({"rule": "convert", "reads": ["fc2"], "writes": ["y"]}),
     "buffers are"),
])
def test_buffers_and_steps_that_do_not_fit(path, change, message):
    check_forged(path, lambda header, _: change(header), message)


def test_host_steps_that_do_not_fit(tmp_path):
    path = tmp_path / "both.zsk"
    for change, message in (
            (lambda header: header["steps"][1].update(rule="scale"), "rule of step 1 is 'scale'"),
            (lambda header: header["steps"].pop(), "step 1 is the host's|buffers are"),
            (lambda header: header["buffers"][2].update(scale=2.0), "'fc2:eie' is .*scale 2.0 "),
            (lambda header: header["steps"][1]["writes"].append("fc2"), "reads|buffers are")):
        compiled(FIRST, second_image(5, 0.5)).save(path)
        check_forged(path, lambda header, _, change=change: change(header), message)


def flip(tensor, at, bit):
    tensor[at] ^= tensor.dtype.type(1 << bit)


def swap(order):
    order[:2] = order[1::-1].copy()


def test_digest_of_another_reference(path):
    check_forged(path, lambda header, _: header.update(reference="0" * 16), "not those of the refe")


def test_overflow_is_proved_again(program, path):
    """The reference is the same; the accumulator has become too narrow for it."""
    (image,) = program.images
    narrow = replace(image, config=replace(image.config, acc_width=17))
    program.with_images(narrow).save(path)
    with pytest.raises(BadInput, match="layer fc1, row .: a sum can reach .* 17-bit accumulator"):
        Program.load(path)


def test_array_of_more_memory_than_there_is(program, path):
    (image,) = program.images
    large = replace(image, config=replace(image.config, weight_rows=1 << 24))
    program.with_images(large).save(path)
    with pytest.raises(BadInput, match="memories take about 2,147,.* bits, at most 536,870,912"):
        Program.load(path)


def test_layer_that_would_fill_the_memory(path):
    """No tensor says how many columns a bank-balanced layer has."""
    def change(header, _):
        step_of(header)["config"].update(act_depth=1 << 20)
        step_of(header)["digest"] = EIEConfig(**step_of(header)["config"]).digest()
        step_of(header)["layers"][0].update(balanced=1, stride=1, inputs=1 << 21)
    check_forged(path, change, "layer fc1: bytes of a pass is 2097152, expected 0 to")
