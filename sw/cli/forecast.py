"""How long a simulation will take, said when its first samples or its first step tell."""

from time import monotonic

from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.engines.base import Progress

LONG = 10
"""Seconds from which on a time is worth saying."""


class Forecast:
    """Progress that is passed on, and once a run a notice of how long all of it takes.

    A run begins, and one of its steps, with what was done before; until then a simulator is built.
    What gives nothing of that kind, as golden, gets no notice.
    """

    def __init__(self, update: Progress, screen: Screen):
        self._update, self._screen = update, screen
        self._begun: tuple[int, float] | None = None
        self._last, self._told = 0, False

    def __call__(self, done: int, total: int) -> None:
        """See :data:`zeroskip.sw.engines.base.Progress`."""
        now = monotonic()
        if done < self._last:       # another run
            self._told, self._begun = False, None
        if done <= self._last:
            self._begun = done, now
        elif self._begun and not self._told:
            self._told = True
            first, start = self._begun
            seconds = (now - start) * (total - first) / (done - first)
            if seconds > LONG and done < total:
                self._screen.notice(f"zeroskip: this run takes about {duration(seconds)}, as its "
                                    f"first {(done - first) / total:.2%} tell")
        self._last = done
        self._update(done, total)


def duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
