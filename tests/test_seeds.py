"""``--seed``: fixed without it, fresh ones that are printed and kept when they fail."""

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

RANDOM = """
from pathlib import Path
from hypothesis import given, settings, strategies as st

def note(file, what):
    with Path(file).open("a") as out:
        out.write(f"{what} ")

def test_of_no_seed():
    note("order", "none")

def test_of_numbers(run_seed):
    note("order", f"numbers:{run_seed}")
    assert not Path("broken").exists()

@settings(derandomize=True, deadline=None, max_examples=3)
@given(st.integers(0, 2**64))
def test_of_hypothesis(number):
    note("drawn", number)
    assert not Path("broken").exists()
"""


@pytest.fixture
def run(pytester):
    """``run(*options, broken=)``: what the tests did, the numbers drawn, and the output."""
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile(test_random=RANDOM)

    def run(*options, broken=False):
        files = {name: pytester.path / name for name in ("order", "drawn", "broken")}
        for file in files.values():
            file.unlink(missing_ok=True)
        if broken:
            files["broken"].touch()
        output = pytester.runpytest_inprocess("-q", *options).stdout.str()
        return (*(files[name].read_text().split() for name in ("order", "drawn")), output)
    return run


def seed_of(output):
    return int(re.search(r"^seed (\d+);", output, re.MULTILINE)[1])


def test_without_the_option_every_run_is_the_same(run):
    order, drawn, output = run()
    assert order == ["none", "numbers:0"]
    assert (order, drawn) == run()[:2]
    assert "seed" not in output


def test_each_fresh_run_has_its_own_seed_and_a_number_repeats_it(run):
    order, drawn, output = run("--seed", "fresh")
    seed = seed_of(output)
    assert order == ["none", f"numbers:{seed}"]
    other = run("--seed", "fresh")
    assert seed_of(other[2]) != seed
    assert other[1] != drawn
    assert run("--seed", str(seed))[:2] == (order, drawn)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_what_fails_is_run_again_first_with_its_seed_until_it_passes(run, workers):
    _, drawn, output = run("--seed", "fresh", broken=True)
    seed = seed_of(output)
    for name in ("test_of_numbers", "test_of_hypothesis"):
        assert f"pytest --seed {seed} 'test_random.py::{name}'" in output

    order, again, output = run("--seed", "fresh", *workers)
    assert seed_of(output) != seed
    assert "2 kept from runs that failed" in output
    assert f"numbers:{seed}" in order
    assert again[0] == drawn[0]
    assert workers or order == [f"numbers:{seed}", "none"]

    order, _, output = run("--seed", "fresh")
    assert "0 kept" in output
    assert order == ["none", f"numbers:{seed_of(output)}"]


def test_a_run_with_another_seed_keeps_what_failed(run):
    run("--seed", "7", broken=True)
    run("--seed", "8")
    order, _, output = run("--seed", "fresh")
    assert "2 kept" in output
    assert order[0] == "numbers:7"


@pytest.mark.usefixtures("run")
def test_a_seed_that_is_none(pytester):
    result = pytester.runpytest_inprocess("--seed", "x")
    result.stderr.fnmatch_lines(["*--seed must be a number or 'fresh', not 'x'"])
