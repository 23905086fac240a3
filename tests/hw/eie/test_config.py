"""The configuration: every refusal, every derived size, both modes, and the digest."""

import re
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from zeroskip.hw.eie.config import CONFIGS, EIEConfig, paper, zeroskip

LEAST = {
    "pes": 1, "groups": 1, "queue_depth": 1, "runahead": 2, "broadcast_latency": 0,
    "weight_rows": 2, "pointers": 1, "act_depth": 2, "block": 1, "acc_depth": 1, "acc_width": 17,
    "bias_depth": 2, "codebooks": 1, "descriptors": 2,
}
MOST = {"groups": 4, "acc_width": 32, "codebooks": 32, "pes": 1024, "queue_depth": 4096,
        "runahead": 1024, "broadcast_latency": 64, **dict.fromkeys(
            ("weight_rows", "pointers", "act_depth", "block", "acc_depth", "bias_depth",
             "descriptors"), 1 << 24)}
FLAGS = ("escapes", "drops_empty", "counts", "counters")
# A value has to be a multiple of something too: what is least then.
SMALLEST = {**LEAST, "pointers": 16}


def test_every_field_is_tested_here():
    assert {*LEAST, *FLAGS} == {field.name for field in fields(EIEConfig)}


@pytest.mark.parametrize("name", LEAST)
def test_the_least_value_is_taken(name):
    assert getattr(EIEConfig(**{name: SMALLEST[name]}), name) == SMALLEST[name]


@pytest.mark.parametrize("name", LEAST)
def test_below_the_least_value_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name} must be at least {LEAST[name]}, "
                                         rf"not {LEAST[name] - 1}$"):
        EIEConfig(**{name: LEAST[name] - 1})


@pytest.mark.parametrize("name", MOST)
def test_the_most_value_is_taken(name):
    others = {"pes": 4} if name == "groups" else {}
    assert getattr(EIEConfig(**{name: MOST[name]}, **others), name) == MOST[name]


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


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [1, 0, "yes", None], ids=repr)
def test_a_flag_is_true_or_false(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, not {value!r}$"):
        EIEConfig(**{name: value})


@pytest.mark.parametrize(("pes", "groups"), [(4, 3), (9, 3), (1, 2), (5, 2), (6, 4), (2, 4)])
def test_groups_that_do_not_fit_are_refused(pes, groups):
    with pytest.raises(ValueError, match=f"^groups must be 1, 2 or 4 and divide pes, which is "
                                         f"{pes}, not {groups}$"):
        EIEConfig(pes=pes, groups=groups)


@pytest.mark.parametrize(("pes", "groups", "clusters"), [(1, 1, 1), (4, 4, 1), (6, 2, 3),
                                                         (64, 4, 16)])
def test_clusters_of_groups(pes, groups, clusters):
    assert EIEConfig(pes=pes, groups=groups).clusters == clusters


@pytest.mark.parametrize(("counts", "unit"), [(True, 16), (False, 2)])
def test_pointers_come_in_whole_words_or_pairs(counts, unit):
    assert EIEConfig(counts=counts, pointers=3 * unit).pointers == 3 * unit
    for pointers in {3 * unit - 1, 3 * unit + 1, 3 * unit // 2}:
        with pytest.raises(ValueError, match=f"^pointers must be a multiple of {unit}, "
                                             f"not {pointers}$"):
            EIEConfig(counts=counts, pointers=pointers)


def test_a_configuration_does_not_change():
    with pytest.raises(FrozenInstanceError):
        EIEConfig().pes = 8


def test_sizes_that_follow():
    config = EIEConfig(pes=4, groups=2, queue_depth=8, broadcast_latency=3, weight_rows=512,
                       pointers=512, act_depth=64, bias_depth=65)
    assert config.queue_slots == 8 + 2 * 3 + 3
    assert config.stats_latency == 2 + 2 * 3
    assert config.entries == 4096
    assert config.pointer_width == 13
    assert config.place_width == 13
    assert config.column_width == 9
    assert config.word_width == 6
    assert config.slot_width == 7
    assert config.bias_width == 7
    assert config.identity_width == 2


@pytest.mark.parametrize(("field", "value", "width", "bits"), [
    ("weight_rows", 3, "pointer_width", 5),    # 24 is one past the last byte
    ("weight_rows", 4, "pointer_width", 6),    # 32
    ("weight_rows", 3, "place_width", 10),     # 512 nibbles
    ("pointers", 4080, "place_width", 13),     # 4096 bytes
    ("pointers", 8192, "place_width", 14),
    ("act_depth", 128, "column_width", 10),    # 512 outputs: 512 is a limit
    ("act_depth", 200, "column_width", 10),    # 800 outputs
    ("pes", 7, "column_width", 9),             # 448
    ("act_depth", 65, "word_width", 7),
    ("act_depth", 2, "word_width", 1),
    ("act_depth", 65, "slot_width", 7),        # a group: a slot is a word
    ("groups", 2, "slot_width", 7),
    ("groups", 4, "slot_width", 8),
    ("bias_depth", 64, "bias_width", 6),
    ("pes", 1, "identity_width", 1),
    ("pes", 17, "identity_width", 5),
])
def test_widths_reach_the_last_value(field, value, width, bits):
    assert getattr(EIEConfig(**{field: value}), width) == bits


SIZES = {"pes": 6, "weight_rows": 100, "pointers": 64, "act_depth": 20, "acc_width": 24,
         "bias_depth": 30, "codebooks": 2}


@pytest.mark.parametrize(("counts", "pointers"), [(True, 4 * (64 + 10)), (False, 64 * 10)])
def test_memory_bits_of_all_pes_together(counts, pointers):
    config = EIEConfig(groups=2, counts=counts, **SIZES)
    assert config.memory_bits == {
        "weights": 6 * 100 * 64, "pointers": 6 * pointers, "activations": 6 * 2 * 20 * 24,
        "biases": 3 * 30 * 24, "codebooks": 6 * 2 * 16 * 16}


@pytest.mark.parametrize("name", [field.name for field in fields(EIEConfig)])
def test_each_field_changes_the_digest(name):
    config = EIEConfig(pes=8)
    value = getattr(config, name)
    other = not value if name in FLAGS else {"groups": 2, "pointers": 32}.get(name, value - 1)
    assert replace(config, **{name: other}).digest() != config.digest()


def test_equal_configurations_have_one_digest_of_16_hexadecimal_digits():
    assert EIEConfig(pes=8).digest() == EIEConfig(pes=8).digest()
    assert re.fullmatch("[0-9a-f]{16}", EIEConfig().digest())


@pytest.mark.parametrize("pes", [1, 6, 64])
def test_the_mode_of_the_paper(pes):
    config = paper(pes)
    assert config == EIEConfig(
        pes=pes, groups=1, queue_depth=8, runahead=4, broadcast_latency=2 if pes >= 16 else 1,
        escapes=False, drops_empty=False, counts=False, acc_depth=64, block=64)


@pytest.mark.parametrize(("pes", "groups"), [(1, 1), (4, 1), (15, 1), (16, 1), (63, 1), (64, 4),
                                             (66, 1), (128, 4)])
def test_the_mode_of_this_project(pes, groups):
    config = zeroskip(pes, act_depth=96)
    assert config == EIEConfig(
        pes=pes, groups=groups, queue_depth=41, runahead=15,
        broadcast_latency=2 if pes >= 16 else 1, escapes=True, drops_empty=True, counts=True,
        act_depth=96, block=96, acc_depth=96)


def test_the_default_is_the_mode_of_this_project():
    assert EIEConfig() == zeroskip(4)


@pytest.mark.parametrize("mode", [paper, zeroskip])
def test_a_mode_takes_other_sizes(mode):
    sizes = {"groups": 2, "queue_depth": 5, "block": 7, "acc_depth": 9, "counts": True,
             "escapes": True}
    config = mode(64, **sizes)
    assert {name: getattr(config, name) for name in sizes} == sizes


def test_named_configurations_say_their_size():
    assert {name: config.pes for name, config in CONFIGS.items()} == {
        "eie-4": 4, "eie-16": 16, "eie-8": 8, "eie-64": 64, "eie-paper-64": 64,
        "eie-icebreaker": 1, "eie-tangnano9k": 1}


def test_the_papers_machine_is_named():
    config = CONFIGS["eie-paper-64"]
    assert config.memory_bits["weights"] == 64 * 128 * 1024 * 8
    assert (config.pointers, config.acc_depth, config.queue_depth, config.block) == (
        16384, 64, 8, 64)
    assert config == paper(64, weight_rows=16384, pointers=16384, act_depth=512, bias_depth=512,
                           codebooks=32, descriptors=32)


def test_the_projects_machine_of_the_papers_size_is_named():
    config = CONFIGS["eie-64"]
    assert (config.groups, config.clusters, config.act_depth * config.pes) == (4, 16, 32768)
    assert config.memory_bits["weights"] == CONFIGS["eie-paper-64"].memory_bits["weights"]
