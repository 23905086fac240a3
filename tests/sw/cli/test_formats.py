"""``bench formats``: its sizes are those of real memories, and of codes written out."""

import numpy as np
import pytest

from zeroskip.sw.cli import formats
from zeroskip.sw.cli.formats import FORMATS
from zeroskip.sw.engines.eie.lower import compile_layers, deepened
from zeroskip.sw.engines.eie.pack import pack
from zeroskip.sw.experiments.benchmarks import array_config, fixed_layer
from zeroskip.sw.experiments.layers import PaperLayer, random_indices


@pytest.fixture(params=[(4, 0.3), (64, 0.01)], ids=["plain", "grouped"])
def layer(request, monkeypatch):
    """Codebook indices, their rows as the array holds them, and owners and groups of these."""
    pes, density = request.param
    monkeypatch.setattr(formats, "PES", pes)
    indices = random_indices("random", (5000, 30), density, seed=3)
    image = compile_layers((fixed_layer(indices),), deepened(array_config("zeroskip", pes)))
    held = np.where(image.order[:, None] < 0, 0, indices[image.order])
    return indices, held, pes, 4 if image.layers[0].grouped else 1


@pytest.mark.parametrize(("name", "escapes"), [
    ("byte, padding entry", False), ("byte, escape", True)])
def test_bytes_are_those_of_the_packer(layer, name, escapes):
    indices, held, pes, groups = layer
    packed = pack(held, pes, escapes=escapes, groups=groups)
    entries = formats._entries(indices)
    units = FORMATS[name].units(entries)
    own = np.bincount(entries.pe, units, pes)
    assert own.tolist() == [len(each) for each in packed.entries]
    assert (entries.width, entries.rows) == (packed.starts.shape[1] - 1, len(held) * groups // pes)


def gaps(*values):
    zeros = np.zeros(len(values), int)
    return formats.Entries(zeros, zeros, np.array(values), 1, 1, 4096)


@pytest.mark.parametrize(("name", "bits"), [
    ("byte, padding entry", [8, 8, 16, 32, 144]),
    ("byte, escape", [8, 8, 16, 16, 24]),
    ("9 bits, padding entry", [9, 9, 9, 18, 81]),
    ("row in full", [16] * 5),
    ("nibbles", [8, 12, 12, 16, 16]),
])
def test_bits_of_a_gap(name, bits):
    entries = gaps(0, 12, 16, 60, 272)
    each = FORMATS[name]
    assert (each.bits(entries) * each.units(entries)).tolist() == bits


def test_the_best_rice_code_of_a_layer():
    """With 3 low bits: 0 is 1 + 3 bits, 12 is 1 + 1 + 3, 17 is 1 + 2 + 3; 4 for the index."""
    each = FORMATS["Rice code"]
    assert each.units(gaps(0, 0, 0)).tolist() == [5, 5, 5]
    assert each.units(gaps(8, 8, 12, 17)).tolist() == [9, 9, 9, 10]


def test_table(cli, monkeypatch):
    monkeypatch.setattr(formats, "PES", 4)
    monkeypatch.setattr(formats, "NINE", {"tiny": PaperLayer("tiny", 32, 64, 0.2, 0.5, 1, 1, 1)})
    done = cli("bench", "formats", "--json")
    assert (done.code, done.stderr) == (0, "")
    rows = done.json["rows"]
    assert [(row["mask"], row["format"]) for row in rows] == [
        (mask, name) for mask in ("random", "skewed") for name in FORMATS]
    for row in rows:
        assert row["entries"] < row["with_counts"]
        assert row["entries"] < row["with_pointers"]
    # two words of counts and 32 pointers per PE of 103 bytes, for 410 weights
    first = rows[1]
    assert first["with_counts"] - first["entries"] == pytest.approx(4 * 2 * (64 + 7) / 410)
    assert first["with_pointers"] - first["entries"] == pytest.approx(4 * 32 * 7 / 410)
