"""What a command shows: a table or JSON on stdout, progress on stderr."""

import json
import sys
import threading
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

DELAY = 2.0
"""Seconds of work without a progress bar."""


class Screen:
    """The output of one command.

    Parameters
    ----------
    as_json : bool
        Only :meth:`result`'s object is printed.
    quiet : bool
        No table, text or progress.
    """

    def __init__(self, as_json: bool, quiet: bool):
        self._json, self._quiet = as_json, quiet or as_json
        self._console = Console()

    def result(self, value: dict) -> None:
        """The command's result; printed only as JSON."""
        if self._json:
            print(json.dumps(value))

    def text(self, line: str) -> None:
        """A line for people."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def notice(self, line: str) -> None:
        """A line for people on stderr, beside the result."""
        if not self._quiet:
            print(line, file=sys.stderr)

    def table(self, title: str, columns: list[str], rows: list[list]) -> None:
        """A table for people; numbers are aligned to the right."""
        table = Table(title=Text(title), title_justify="left")
        for at, name in enumerate(columns):
            number = all(isinstance(row[at], int | float) for row in rows)
            table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_text(cell)) for cell in row))
        if not self._quiet:
            self._console.print(table)

    @contextmanager
    def progress(self, text: str):
        """Gives a function ``(done, total, text="")``; a bar appears after ``DELAY``, on a
        terminal, whether or not the function is called."""
        console = Console(stderr=True)
        bar = Progress(console=console, transient=True,
                       disable=self._quiet or not console.is_terminal)
        task = bar.add_task(text, total=None)

        def update(done: int, total: int, what: str = "") -> None:
            bar.update(task, completed=done, total=total, description=what or text)

        timer = threading.Timer(DELAY, bar.start)
        timer.start()
        try:
            yield update
        finally:
            timer.cancel()
            timer.join()
            bar.stop()


def _text(cell) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
