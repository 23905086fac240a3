"""The configuration: every refusal, every derived size, and the digest."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from zeroskip.hw.eie.config import CONFIGS, EIEConfig

LEAST = {
    "pes": 1, "queue_depth": 1, "runahead": 2, "broadcast_latency": 0, "weight_rows": 2,
    "pointers": 2, "act_depth": 2, "block": 1, "acc_depth": 2, "acc_width": 17,
    "bias_depth": 2, "codebooks": 1, "descriptors": 2,
}
MOST = {"acc_width": 32, "codebooks": 32}


def test_every_number_has_a_limit_here():
    assert {*LEAST, "counters"} == {field.name for field in fields(EIEConfig)}


@pytest.mark.parametrize("name", LEAST)
def test_the_least_value_is_taken(name):
    assert getattr(EIEConfig(**{name: LEAST[name]}), name) == LEAST[name]


@pytest.mark.parametrize("name", LEAST)
def test_below_the_least_value_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name} must be at least {LEAST[name]}, "
                                         rf"not {LEAST[name] - 1}$"):
        EIEConfig(**{name: LEAST[name] - 1})


@pytest.mark.parametrize("name", MOST)
def test_the_most_value_is_taken(name):
    assert getattr(EIEConfig(**{name: MOST[name]}), name) == MOST[name]


@pytest.mark.parametrize("name", MOST)
def test_above_the_most_value_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name} must be at most {MOST[name]}, "
                                         rf"not {MOST[name] + 1}$"):
        EIEConfig(**{name: MOST[name] + 1})


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("value", [4.0, "4", True, None], ids=repr)
def test_what_is_not_an_integer_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be an integer, not {value!r}$"):
        EIEConfig(**{name: value})


@pytest.mark.parametrize("value", [1, 0, "yes"], ids=repr)
def test_counters_is_true_or_false(value):
    with pytest.raises(TypeError, match=rf"^counters must be True or False, not {value!r}$"):
        EIEConfig(counters=value)


def test_a_configuration_does_not_change():
    with pytest.raises(FrozenInstanceError):
        EIEConfig().pes = 8


def test_sizes_that_follow():
    config = EIEConfig(pes=4, queue_depth=8, broadcast_latency=3, weight_rows=512, pointers=512,
                       act_depth=64, acc_depth=64, bias_depth=65)
    assert config.queue_slots == 8 + 2 * 3
    assert config.entries == 4096
    assert config.pointer_width == 13
    assert config.column_width == 10
    assert config.word_width == 6
    assert config.row_width == 6
    assert config.bias_width == 7
    assert config.identity_width == 2


@pytest.mark.parametrize(("field", "value", "width", "bits"), [
    ("weight_rows", 3, "pointer_width", 5),   # 24 is a pointer
    ("weight_rows", 4, "pointer_width", 6),   # 32 is a pointer
    ("act_depth", 128, "column_width", 10),   # 512 outputs: 512 is a limit
    ("act_depth", 200, "column_width", 10),   # 800 outputs
    ("pointers", 1023, "column_width", 10),
    ("pointers", 1024, "column_width", 11),   # 1024 is a limit
    ("act_depth", 65, "word_width", 7),
    ("acc_depth", 65, "row_width", 7),
    ("acc_depth", 2, "row_width", 1),
    ("bias_depth", 64, "bias_width", 6),
    ("pes", 1, "identity_width", 1),
    ("pes", 17, "identity_width", 5),
])
def test_widths_reach_the_last_value(field, value, width, bits):
    assert getattr(EIEConfig(**{field: value}), width) == bits


def test_memory_bits_of_all_pes_together():
    config = EIEConfig(pes=3, weight_rows=100, pointers=50, act_depth=20, acc_depth=10,
                       acc_width=24, bias_depth=30, codebooks=2)
    assert config.memory_bits == {
        "weights": 3 * 100 * 64, "pointers": 3 * 50 * 10, "activations": 3 * 2 * 20 * 16,
        "accumulators": 3 * 10 * 24, "biases": 3 * 30 * 24, "codebooks": 3 * 2 * 16 * 16}


@pytest.mark.parametrize("name", [field.name for field in fields(EIEConfig)])
def test_each_field_changes_the_digest(name):
    config = EIEConfig()
    value = getattr(config, name)
    other = not value if name == "counters" else value - 1
    assert replace(config, **{name: other}).digest() != config.digest()


def test_equal_configurations_have_one_digest_of_16_hexadecimal_digits():
    assert EIEConfig(pes=8).digest() == EIEConfig(pes=8).digest()
    assert len(EIEConfig().digest()) == 16
    assert int(EIEConfig().digest(), 16) >= 0


def test_named_configurations_say_their_size():
    assert {name: config.pes for name, config in CONFIGS.items()} == {
        "eie-4": 4, "eie-16": 16, "eie-paper-64": 64}


def test_the_papers_machine_is_named():
    paper = CONFIGS["eie-paper-64"]
    assert paper.memory_bits["weights"] == 64 * 128 * 1024 * 8
    assert paper.memory_bits["activations"] == 64 * 2 * 1024 * 8
    assert (paper.pointers, paper.acc_depth, paper.queue_depth, paper.block) == (16384, 64, 8, 64)
