"""How long a simulation takes is said early, by its own first part, and only where it is long."""

import re
from contextlib import redirect_stderr
from io import StringIO

import numpy as np
import pytest

from zeroskip.sw.cli import forecast
from zeroskip.sw.cli.forecast import Forecast, duration
from zeroskip.sw.cli.screen import Screen


@pytest.fixture
def clock(monkeypatch):
    """A list whose last item is the time."""
    times = [100.0]
    monkeypatch.setattr(forecast, "monotonic", lambda: times[-1])
    return times


def said(clock, steps, quiet=False):
    """The notices of some progress: times, done and total; and that it is passed on."""
    passed, stderr = [], StringIO()
    with redirect_stderr(stderr):
        told = Forecast(lambda *step: passed.append(step), Screen(False, quiet))
        for time, *step in steps:
            clock.append(time)
            told(*step)
    assert passed == [tuple(step) for _, *step in steps]
    return stderr.getvalue().splitlines()


def test_the_first_sample_tells(clock):
    """Building the simulator, until 40, does not count; later samples do not say it again."""
    (line,) = said(clock, [(40, 0, 100), (42, 1, 100), (74, 17, 100), (200, 100, 100)])
    assert line == "zeroskip: this run takes about 3 minutes, as its first 1.00% tell"


@pytest.mark.parametrize("quiet", [True, False])
def test_where_nothing_is_said(clock, quiet):
    long = [(0, 0, 9), (5, 1, 9), (45, 9, 9)]
    assert len(said(clock, long, quiet)) == (not quiet)
    assert said(clock, [(0, 0, 9), (1, 1, 9), (9, 9, 9)]) == []         # 9 seconds
    assert said(clock, [(0, 0, 9), (60, 9, 9)]) == []                   # it is over
    assert said(clock, [(30, 4, 8), (60, 8, 8)]) == []                  # golden: no beginning


def test_a_second_step_and_a_second_run(clock):
    """Golden, then a simulator of two steps: the first tells; then another simulator."""
    lines = said(clock, [
        (1, 50, 200), (2, 200, 200),
        (3, 0, 200), (8, 5, 200), (50, 50, 200), (99, 50, 200), (150, 200, 200),
        (160, 0, 200), (180, 10, 200), (200, 200, 200)])
    assert [re.search(r"about (.*?),", line)[1] for line in lines] == ["3 minutes", "7 minutes"]


@pytest.mark.parametrize(("seconds", "words"), [
    (11.4, "11 seconds"), (89, "89 seconds"), (91, "2 minutes"), (3600, "60 minutes"),
    (5400, "2 hours"), (86400, "24 hours")])
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("command", ["run", "verify"])
def test_commands_say_it(cli, folder, monkeypatch, command):
    """By a clock on which each look takes ten seconds."""
    times = iter(range(0, 10**6, 10))
    monkeypatch.setattr(forecast, "monotonic", lambda: next(times))
    np.save(folder / "x.npy", np.tile(np.load(folder / "x.npy"), (20, 1)))
    options = {"run": ("-o", folder / "y.npy", "--backend", "cxxrtl"),
               "verify": ("--backend", "golden,cxxrtl")}[command]
    done = cli(command, folder / "model.zsk", "--input", folder / "x.npy", *options)
    assert done.code == 0
    assert done.stderr == "zeroskip: this run takes about 10 minutes, as its first 1.67% tell\n"
    quiet = cli(command, folder / "model.zsk", "--input", folder / "x.npy", *options, "--json")
    assert (quiet.code, quiet.stderr) == (0, "")


def test_a_program_of_golden_alone_says_nothing(cli, folder, monkeypatch):
    times = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(forecast, "monotonic", lambda: next(times))
    assert cli("run", folder / "model.zsk", "--input", folder / "x.npy", "-o", folder / "y.npy",
               "--backend", "golden").stderr == ""
