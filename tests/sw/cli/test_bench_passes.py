"""``bench passes``: a layer that the array does not hold."""

import pytest


@pytest.mark.timeout(300)
def test_a_layer_in_passes(cli):
    done = cli("bench", "passes", "--layer", "small", "--config", "eie-4", "--images", "1",
               "--backend", "cxxrtl", "--json")
    assert (done.code, done.stderr) == (0, "")
    (row,) = done.json["rows"]
    assert row["exact"] is True
    assert row["loads"] == row["blocks"] > 120_000 / (4 * 4096)
    assert row["load_bytes"] == 4 * row["load_words"] > 120_000
    assert row["float32_mb"] == 4.8
    assert 0.4 < row["utilisation"] < 1      # each block fills and empties the array


@pytest.mark.parametrize(("options", "message"), [
    (["--layer", "fc9"], "there is no layer 'fc9'; choose from vgg-fc6, ddddocr, small"),
    (["--images", "9"], "--images must be 1 to 8, not 9"),
    (["--config", "tc-8"], "there is no configuration 'tc-8'; choose one of eie-4, "),
])
def test_what_there_is_not(refused, options, message):
    assert message in refused("bench", "passes", *options)
