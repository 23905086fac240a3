"""Estimates of a tensor core's cycles against those measured in RTL (docs/tensorcore.md)."""

import numpy as np
import pytest

from zeroskip.hw.tensorcore.config import CONFIGS
from zeroskip.sw.engines.tensorcore.cost import estimate, holds
from zeroskip.sw.formats.nm import mask
from zeroskip.sw.graph.network import Linear


def layer(rows, columns, pattern="dense"):
    weight = np.random.default_rng(1).normal(size=(rows, columns)).astype(np.float32)
    if pattern != "dense":
        weight = np.where(mask(weight, pattern), weight, 0).astype(np.float32)
    return Linear("fc", weight, np.zeros(rows, np.float32), "none")


@pytest.mark.parametrize(("m", "k", "n", "pattern", "cycles"), [
    (768, 768, 128, "dense", 1_179_866), (768, 768, 128, "2:4", 589_946),
    (3072, 768, 128, "2:4", 2_359_418), (768, 3072, 128, "dense", 4_719_386),
    (64, 64, 1, "2:4", 162)])
def test_cycles_as_measured(m, k, n, pattern, cycles):
    found = estimate(layer(m, k, pattern), pattern, CONFIGS["tc-64"], n)
    assert n * found.cycles == pytest.approx(cycles, rel=0.06)
    assert found.basis == f"{pattern}, {n} samples together"


@pytest.mark.parametrize(("pattern", "stored"), [
    ("dense", 6 * 8 + 54), ("2:4", 6 * 4 + 6 + 54), ("1:4", 6 * 2 + 3 + 54)])
def test_bytes(pattern, stored):
    """Weights, two bits of place for each that is kept, and nine bytes for a row."""
    assert estimate(layer(6, 8, pattern), pattern, CONFIGS["tc-64-all"], 1).bytes == stored


def test_1_4_runs_as_2_4_where_there_is_no_better_mode():
    one, two = (estimate(layer(64, 64, "1:4"), "1:4", CONFIGS[name], 64)
                for name in ("tc-64-all", "tc-64"))
    assert (one.basis[:3], two.basis[:3]) == ("1:4", "2:4")
    assert two.cycles == pytest.approx(2 * one.cycles, rel=0.1)


@pytest.mark.parametrize(("columns", "pattern", "expected"), [
    (512, "dense", ["tc-8", "tc-64-dense", "tc-64", "tc-64-all"]),
    (1024, "2:4", ["tc-8", "tc-64", "tc-64-all"]),
    (1028, "2:4", ["tc-64", "tc-64-all"]),
    (4096, "unstructured", ["tc-64-dense", "tc-64", "tc-64-all"]),
    (4100, "dense", [])])
def test_a_core_holds_a_row_and_a_column(columns, pattern, expected):
    own = layer(2, columns, pattern if pattern == "2:4" else "dense")
    assert [name for name in ("tc-8", "tc-64-dense", "tc-64", "tc-64-all")
            if holds([(own, pattern)], CONFIGS[name])] == expected
