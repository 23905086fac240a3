"""What a command shows: a table or JSON on stdout, progress on stderr."""

import json
import time
from collections.abc import Callable
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Table


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

    def table(self, title: str, columns: list[str], rows: list[list]) -> None:
        """A table for people; numbers are aligned to the right."""
        table = Table(title=title, title_justify="left")
        for at, name in enumerate(columns):
            number = all(isinstance(row[at], int | float) for row in rows)
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_text(cell) for cell in row))
        if not self._quiet:
            self._console.print(table)

    @contextmanager
    def progress(self, text: str):
        """Gives a function ``(done, total, text="")``; a bar appears after two seconds, on a
        terminal."""
        console = Console(stderr=True)
        bar = Progress(console=console, transient=True,
                       disable=self._quiet or not console.is_terminal)
        task = bar.add_task(text, total=None)
        began, shown = time.monotonic(), False

        def update(done: int, total: int, what: str = "") -> None:
            nonlocal shown
            bar.update(task, completed=done, total=total, description=what or text)
            if not shown and time.monotonic() - began > 2:
                bar.start()
                shown = True

        try:
            yield update
        finally:
            if shown:
                bar.stop()


Update = Callable[..., None]
"""What :meth:`Screen.progress` gives."""


def _text(cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
