"""``bench tensorcore`` and ``bench area`` on small shapes and counted cells."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from zeroskip.fpga import area
from zeroskip.fpga.area import Cells
from zeroskip.hw.tensorcore import core
from zeroskip.hw.tensorcore.config import CONFIGS
from zeroskip.sw.experiments import gemm_benchmarks

ROW = ["m", "k", "n", "pattern", "dense_cycles", "sparse_cycles", "speedup", "busy",
       "dense_busy", "exact"]


@pytest.fixture
def bench(cli, monkeypatch):
    """``bench(*options)`` on small shapes; the steady state is 1.5."""
    monkeypatch.setattr(gemm_benchmarks, "SHAPES", ((8, 64, 8), (3, 12, 1)))
    monkeypatch.setattr(gemm_benchmarks, "steady_state", lambda *args: 1.5)
    return lambda *options, config="tc-8": cli(
        "bench", "tensorcore", "--config", config, "--backend", "python", *options)


def test_tensorcore_as_json(bench):
    done = bench("--json")
    assert (done.code, done.stderr) == (0, "")
    assert set(done.json) == {"rows", "steady"}
    assert done.json["steady"] == {"2:4": 1.5}
    assert [list(row) for row in done.json["rows"]] == [ROW, ROW]
    assert [(row["m"], row["k"], row["n"]) for row in done.json["rows"]] == [(8, 64, 8), (3, 12, 1)]
    for row in done.json["rows"]:
        assert row["pattern"] == "2:4"
        assert row["exact"] is True
        assert row["speedup"] == row["dense_cycles"] / row["sparse_cycles"] > 1
        assert 0 < row["busy"] < 1
    first = done.json["rows"][0]
    assert first["dense_busy"] == 8 * 64 * 8 / 8 / first["dense_cycles"]


def test_tensorcore_as_tables(bench):
    done = bench()
    assert (done.code, done.stderr) == (0, "")
    assert "2 x 2 x 2 multipliers" in done.stdout
    assert "where the sparse cycles went" in done.stdout
    assert "steady state, 2:4 over dense: 1.500" in done.stdout
    assert bench("-q") == (0, "", "")


def test_every_pattern_of_the_configuration(bench, monkeypatch):
    seen = []

    def run_gemm(m, k, n, pattern, config, rtl):
        seen.append((m, k, n, pattern, config))
        return run(2, 4, 1, pattern, replace(config, rows=2, columns=2, products=2), rtl)
    run = gemm_benchmarks.run_gemm
    monkeypatch.setattr(gemm_benchmarks, "run_gemm", run_gemm)
    done = bench("--json", config="tc-64-all")
    assert [each[:4] for each in seen] == [
        (8, 64, 8, "2:4"), (3, 12, 1, "2:4"), (8, 64, 8, "1:4"), (3, 12, 1, "1:4")]
    assert {each[4] for each in seen} == {CONFIGS["tc-64-all"]}
    assert set(done.json["steady"]) == {"2:4", "1:4"}


def test_a_product_that_is_not_exact_fails(bench, monkeypatch):
    run = gemm_benchmarks.run_gemm

    def wrong(m, *others):
        result = run(m, *others)
        return result if m == 8 else type(result)(**{**vars(result), "exact": False})
    monkeypatch.setattr(gemm_benchmarks, "run_gemm", wrong)
    done = bench("--json")
    assert (done.code, done.stderr) == (1, "")
    assert [row["exact"] for row in done.json["rows"]] == [True, False]


@pytest.mark.parametrize(("options", "message"), [
    (["--config", "tc-64-dense"], "'tc-64-dense' has no sparse pattern; choose another"),
    (["--config", "eie-4"], "there is no configuration 'eie-4'; choose one of tc-64, "),
    (["--backend", "golden"], "'golden' runs no hardware; choose one of python"),
])
def test_tensorcore_refuses(cli, options, message):
    done = cli("bench", "tensorcore", *options)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.fixture
def counted(monkeypatch):
    """What was synthesised, of which a sparse build has 5 % more logic cells."""
    asked = []
    monkeypatch.setattr(core, "TensorCore", lambda config: SimpleNamespace(config=config))

    def synthesise(component, family, *, soft):
        asked.append((component.config.patterns, family, soft))
        return Cells(1050 if component.config.sparse else 1000, 70, 0 if soft else 16, 9)
    monkeypatch.setattr(area, "synthesise", synthesise)
    return asked


def test_area_as_json(cli, counted):
    done = cli("bench", "area", "--config", "tc-8", "--json")
    assert (done.code, done.stderr) == (0, "")
    rows = done.json["rows"]
    assert [(row["family"], row["multipliers_in"]) for row in rows] == [
        ("ecp5", "DSP blocks"), ("ecp5", "logic"), ("ice40", "DSP blocks"), ("ice40", "logic")]
    assert rows[0] == {
        "family": "ecp5", "multipliers_in": "DSP blocks", "ratio": 1.05,
        "sparse": {"logic": 1050, "flip_flops": 70, "multipliers": 16, "memories": 9},
        "dense": {"logic": 1000, "flip_flops": 70, "multipliers": 16, "memories": 9}}
    assert counted == [(patterns, family, soft) for family in ("ecp5", "ice40")
                       for soft in (False, True)
                       for patterns in (CONFIGS["tc-8"].patterns, ("dense",))]


@pytest.mark.usefixtures("counted")
def test_area_as_a_table(cli):
    done = cli("bench", "area", "--config", "tc-8")
    assert (done.code, done.stderr) == (0, "")
    assert "1,050" in done.stdout
    assert "+5.0%" in done.stdout
    assert cli("bench", "area", "--config", "tc-8", "-q") == (0, "", "")


def test_area_of_an_unknown_configuration(cli, counted):
    done = cli("bench", "area", "--config", "eie-4")
    assert (done.code, done.stdout) == (2, "")
    assert "'eie-4'; choose one of tc-64, " in done.stderr
    assert counted == []
