"""``bench sequences`` with what it runs replaced."""

import pytest

from zeroskip.sw.experiments import sequences
from zeroskip.sw.experiments.sequences import SequenceRun


@pytest.mark.parametrize("equal", [True, False])
def test_rows_and_exit_code(cli, monkeypatch, equal):
    monkeypatch.setattr(sequences, "run", lambda net, backend, samples: SequenceRun(
        net, 0.75, 0.5, samples, 0.75, 0.5, 0.5, equal or net == "lstm", 3, 25, 1234.5))
    done = cli("bench", "sequences", "--backend", "python", "--json")
    assert done.code == (0 if equal else 1)
    assert [(row["net"], row["golden"], row["rtl"], row["cycles"]) for row in done.json["rows"]] \
        == [("lstm", 0.5, 0.5, 1234.5), ("conv1d", 0.5, 0.5, 1234.5)]
