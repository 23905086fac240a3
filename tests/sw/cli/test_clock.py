"""``bench clock``: what it makes of cycles and of a placed design."""

from types import SimpleNamespace

import pytest
from amaranth.hdl import Fragment

from zeroskip.fpga import place
from zeroskip.fpga.flow import CriticalPath
from zeroskip.fpga.place import Placed
from zeroskip.sw.cli import clock
from zeroskip.sw.experiments import benchmarks


@pytest.fixture
def placed(monkeypatch):
    """The configurations that are placed; each is 8,000 LUTs and 20 block RAMs at 100 MHz, and
    used by 0.5 and 0.72."""
    configs, utilisation = [], iter([0.5, 0.72] * 2)

    def instead(component, chip):
        assert chip.device == "85k"
        configs.append(component.config)
        Fragment.get(component, None)   # Amaranth warns of a design that nothing elaborates
        path = CriticalPath(("queue.level", "full"), 2.0, 3.0, 4)
        fmax = {1: 90.0, 2: 100.0, 3: 120.0}
        return Placed(8000, 4000, 20, 4, fmax, dict.fromkeys(fmax, path))
    monkeypatch.setattr(place, "place", instead)
    monkeypatch.setattr(clock, "LAYERS", ("VGG-7", "Alex-8"))
    monkeypatch.setattr(benchmarks, "run_job",
                        lambda *_: SimpleNamespace(utilisation=next(utilisation)))
    return configs


def test_rows(cli, placed):
    done = cli("bench", "clock", "--json")
    assert (done.code, done.stderr) == (0, "")
    paper, own = done.json["rows"]
    assert (paper["mode"], own["mode"]) == ("paper", "zeroskip")
    assert [config.escapes for config in placed] == [False, True]
    assert [config.pes for config in placed] == [4, 4]
    for row in (paper, own):
        assert (row["lut"], row["ff"], row["bram"], row["dsp"]) == (2000, 1000, 5, 1)
        assert row["fmax_mhz"] == 100
        assert row["utilisation"] == pytest.approx(0.6)
        assert row["per_kilolut"] == pytest.approx(0.6 * 100 / 2)
        assert row["per_bram"] == pytest.approx(0.6 * 100 / 5)
        assert row["path"].startswith("queue.level -> full: 4 levels")


@pytest.mark.usefixtures("placed")
def test_table(cli):
    done = cli("bench", "clock")
    assert (done.code, done.stderr) == (0, "")
    assert "critical path, paper: queue.level -> full" in done.stdout
