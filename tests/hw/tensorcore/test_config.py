"""The configuration: every refusal, every derived size, and the digest."""

from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest

from zeroskip.hw.tensorcore.config import CONFIGS, SPEEDUP, TensorCoreConfig

LEAST = {"rows": 1, "columns": 1, "products": 2, "weight_words": 2, "activation_words": 2}
PATTERNS = [("dense",), ("dense", "2:4"), ("dense", "1:4"), ("dense", "2:4", "1:4")]


def test_every_field_is_checked_here():
    assert {*LEAST, "patterns", "int4"} == {field.name for field in fields(TensorCoreConfig)}


@pytest.mark.parametrize("name", LEAST)
def test_the_least_value_is_taken(name):
    assert getattr(TensorCoreConfig(**{name: LEAST[name]}), name) == LEAST[name]


@pytest.mark.parametrize("name", LEAST)
def test_below_the_least_value_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name} must be at least {LEAST[name]}, "
                                         rf"not {LEAST[name] - 1}$"):
        TensorCoreConfig(**{name: LEAST[name] - 1})


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("value", [4.0, "4", True, None], ids=repr)
def test_what_is_not_an_integer_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be an integer, not {value!r}$"):
        TensorCoreConfig(**{name: value})


@pytest.mark.parametrize("value", [1, 0, "yes", None], ids=repr)
def test_int4_is_true_or_false(value):
    with pytest.raises(TypeError, match=rf"^int4 must be True or False, not {value!r}$"):
        TensorCoreConfig(int4=value)


@pytest.mark.parametrize("products", [3, 6, 12, 31])
def test_products_are_a_power_of_two(products):
    with pytest.raises(ValueError, match=rf"^products must be a power of two, not {products}$"):
        TensorCoreConfig(products=products)


@pytest.mark.parametrize("patterns", PATTERNS, ids=", ".join)
def test_patterns_that_are_built(patterns):
    assert TensorCoreConfig(patterns=patterns).patterns == patterns
    assert TensorCoreConfig(patterns=list(patterns)) == TensorCoreConfig(patterns=patterns)


@pytest.mark.parametrize(("patterns", "said"), [
    ((), "none"), (("2:4",), "'2:4'"), (("1:4", "dense"), "'1:4', 'dense'"),
    (("2:4", "dense"), "'2:4', 'dense'"), (("dense", "dense"), "'dense', 'dense'"),
    (("dense", "1:4", "2:4"), "'dense', '1:4', '2:4'"), (("dense", "4:8"), "'dense', '4:8'"),
])
def test_other_patterns_are_refused(patterns, said):
    with pytest.raises(ValueError, match=rf"^patterns must be 'dense' and any of '2:4', '1:4', "
                                         rf"in this order, not {said}$"):
        TensorCoreConfig(patterns=patterns)


@pytest.mark.parametrize("patterns", PATTERNS[2:], ids=", ".join)
def test_the_weights_hold_a_whole_word_of_activations(patterns):
    assert TensorCoreConfig(weight_words=4, patterns=patterns).weight_words == 4
    with pytest.raises(ValueError, match=r"^weight_words must be at least 4 with 1:4, not 3$"):
        TensorCoreConfig(weight_words=3, patterns=patterns)


def test_a_configuration_does_not_change():
    with pytest.raises(FrozenInstanceError):
        TensorCoreConfig().rows = 8


@pytest.mark.parametrize(("patterns", "span"), [
    (("dense",), 1), (("dense", "2:4"), 2), (("dense", "1:4"), 4), (("dense", "2:4", "1:4"), 4)])
def test_the_fastest_pattern_sets_the_span(patterns, span):
    config = TensorCoreConfig(rows=3, columns=5, products=8, patterns=patterns)
    assert config.span == span == max(SPEEDUP[pattern] for pattern in patterns)
    assert config.sparse == (patterns != ("dense",))
    assert config.operands == 8 * span
    assert config.phase_width >= (span - 1).bit_length()
    assert config.multipliers == 3 * 5 * 8
    assert config.lanes == 4


@pytest.mark.parametrize(("words", "width"), [(2, 1), (3, 2), (4, 2), (5, 3), (1024, 10)])
def test_addresses_reach_the_last_word(words, width):
    config = TensorCoreConfig(weight_words=words, activation_words=words)
    assert (config.weight_address, config.activation_address) == (width, width)


def test_memory_bits_of_all_rows_and_columns_and_both_halves():
    config = TensorCoreConfig(rows=3, columns=5, products=8, weight_words=100,
                              activation_words=70)
    assert config.memory_bits == {
        "weights": 2 * 3 * 100 * 8 * 8, "metadata": 2 * 3 * 100 * 8 * 2,
        "activations": 2 * 5 * 70 * 16 * 8}
    dense = replace(config, patterns=("dense",)).memory_bits
    assert (dense["metadata"], dense["activations"]) == (0, 2 * 5 * 70 * 8 * 8)


@pytest.mark.parametrize(("name", "other"), [
    *((name, 8) for name in LEAST), ("patterns", ("dense",)), ("int4", True)])
def test_each_field_changes_the_digest(name, other):
    config = TensorCoreConfig()
    assert replace(config, **{name: other}).digest() != config.digest()


def test_equal_configurations_have_one_digest_of_16_hexadecimal_digits():
    config = TensorCoreConfig(rows=8)
    assert TensorCoreConfig(**asdict(config)).digest() == config.digest()
    assert len(config.digest()) == 16
    assert int(config.digest(), 16) >= 0


def test_named_configurations_say_their_multipliers():
    assert {name: config.multipliers for name, config in CONFIGS.items()} == {
        "tc-64": 64, "tc-64-dense": 64, "tc-64-all": 64, "tc-8": 8}


def test_the_dense_twin_differs_in_nothing_but_the_patterns():
    assert replace(CONFIGS["tc-64"], patterns=("dense",)) == CONFIGS["tc-64-dense"]


@pytest.mark.parametrize(("name", "most"), [
    ("rows", 256), ("columns", 256), ("products", 256), ("weight_words", 1 << 24),
    ("activation_words", 1 << 24)])
def test_the_most_value_is_taken_and_more_is_refused(name, most):
    assert getattr(TensorCoreConfig(**{name: most}), name) == most
    with pytest.raises(ValueError, match=f"^{name} must be at most {most}, not {most + 1}$"):
        TensorCoreConfig(**{name: most + 1})
