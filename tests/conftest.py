"""Seeds: the same in each run, or, with ``--seed``, others.

Without it every random test is a fixed one. ``--seed fresh`` draws a seed for the run and prints
it. What fails is kept in pytest's cache with its seed, and the next fresh run begins with it, until
it passes. ``--seed N`` runs all with a seed that was printed.
"""

import os
import secrets

import hypothesis
import numpy as np
import pytest

KEPT = "zeroskip/seeds"


def pytest_addoption(parser):
    parser.addoption("--seed", metavar="N", help="seed of the random tests: a number, or 'fresh' "
                     "for a new one, behind the tests that failed with theirs")


def pytest_configure(config):
    if config.getoption("seed") is not None:
        config.pluginmanager.register(Seeds(config), "seeds")


@pytest.fixture
def run_seed(request) -> int:
    """What a long random test adds to its own seeds: 0 unless ``--seed`` says otherwise."""
    seeds = request.config.pluginmanager.get_plugin("seeds")
    return seeds.of(request.node) if seeds else 0


@pytest.fixture
def digits_like():
    """Two small layers, five images, two PEs: a :class:`zeroskip.sim.cases.Case`."""
    from zeroskip.sim.cases import make_case, random_layers
    rng = np.random.default_rng(1)
    inputs = rng.integers(-100, 100, (5, 24)) * (rng.random((5, 24)) < 0.6)
    return make_case(random_layers(rng, (24, 30, 9), 0.3), inputs, pes=2)


class Seeds:
    """Gives every random test its seed, and keeps those that fail.

    Attributes
    ----------
    run : int
        The seed of the run.
    again : dict
        Tests that failed before, by their id: their seed.
    """

    def __init__(self, config):
        self._config, self._works = config, hasattr(config, "workerinput")
        if self._works:
            self.run, self.again = config.workerinput["seeds"]
            return
        asked = config.getoption("seed")
        if asked != "fresh" and not asked.isdecimal():
            raise pytest.UsageError(f"--seed must be a number or 'fresh', not {asked!r}")
        self._kept = config.cache.get(KEPT, {})
        self.run = secrets.randbits(32) if asked == "fresh" else int(asked)
        self.again = dict(self._kept) if asked == "fresh" else {}

    def of(self, item) -> int:
        """The seed of a test."""
        return self.again.get(item.nodeid, self.run)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        """Of xdist: all its workers have the same seeds."""
        node.workerinput["seeds"] = self.run, self.again

    def pytest_sessionstart(self):
        if not self._works:
            self._config.get_terminal_writer().line(
                f"seed {self.run}; {len(self.again)} kept from runs that failed")

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: item.nodeid not in self.again)

    def pytest_runtest_setup(self, item):
        if hypothesis.is_hypothesis_test(item.obj):
            hypothesis.seed(self.of(item))(item.obj)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        random = hypothesis.is_hypothesis_test(item.obj) or "run_seed" in item.fixturenames
        if random and report.when == "call":
            report.user_properties.append(("seed", self.of(item)))
            longer = "ZEROSKIP_REGRESSION=1 " * ("ZEROSKIP_REGRESSION" in os.environ)
            command = f"{longer}pytest --seed {self.of(item)} '{item.nodeid}'"
            report.sections.append(("seed", command))
        return report

    def pytest_runtest_logreport(self, report):
        seed = dict(report.user_properties).get("seed")
        if self._works or seed is None:
            return
        if report.failed:
            self._kept[report.nodeid] = seed
        elif report.passed and self._kept.get(report.nodeid) == seed:
            del self._kept[report.nodeid]
        else:
            return
        self._config.cache.set(KEPT, self._kept)
