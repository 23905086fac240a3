"""What a command shows: a table or JSON on stdout, progress on stderr."""

import json
import sys
import textwrap
import threading
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
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
        """A table for people; numbers are aligned to the right, None is "-".

        No word and no number is split: where the columns are too wide for the terminal, each row
        becomes a block of lines, and where even that is too wide it is wider than the terminal.
        """
        if self._quiet:
            return
        room = self._console.width
        self._console.print(textwrap.fill(
            title, room, break_long_words=False, break_on_hyphens=False),
            style="italic", highlight=False, markup=False, soft_wrap=True)
        columns = [name.strip() for name in columns]
        cells = [[text(cell).strip() for cell in row] for row in rows]
        widths = _widths([columns, *cells], room)
        if _total(widths) > room:
            self._blocks(columns, cells or [[""] * len(columns)])
            return
        table = Table()
        for at, (name, width) in enumerate(zip(columns, widths, strict=True)):
            number = all(isinstance(row[at], int | float | None) for row in rows)
            table.add_column(Text(name), justify="right" if number else "left", width=width)
        for row in cells:
            table.add_row(*map(Text, row))
        self._console.print(table)

    def _blocks(self, columns: list[str], cells: list[list[str]]) -> None:
        """A table with a line for each cell."""
        blocks = [list(zip(columns, row, strict=True)) for row in cells]
        widths = _widths([line for block in blocks for line in block], self._console.width)
        table = Table(show_header=False)
        for width in widths:
            table.add_column(width=width)
        for block in blocks:
            for line in block:
                table.add_row(*map(Text, line))
            table.add_section()
        Console(width=max(self._console.width, _total(widths))).print(table)

    @contextmanager
    def progress(self, text: str):
        """Gives a function ``(done, total, text="")``; a bar appears after ``DELAY``, on a
        terminal, whether or not the function is called."""
        console = Console(stderr=True)
        bar = Progress(console=console, transient=True,
                       disable=self._quiet or not console.is_terminal)
        task = bar.add_task(escape(text), total=None)

        def update(done: int, total: int, what: str = "") -> None:
            bar.update(task, completed=done, total=total, description=escape(what or text))

        timer = threading.Timer(DELAY, bar.start)
        timer.start()
        try:
            yield update
        finally:
            timer.cancel()
            timer.join()
            bar.stop()


def _widths(lines: list[list[str]], room: int) -> list[int]:
    """Widths of the columns of a table that split no word; the whole takes ``room`` characters at
    most, unless its words need more."""
    columns = list(zip(*lines, strict=True))
    widths = [max(cell_len(word) for cell in column for word in [*cell.split(), " "])
              for column in columns]
    whole = [max(1, *map(cell_len, column)) for column in columns]
    while widths != whole and _total(widths) < room:
        # the column that takes the most lines
        at = max(range(len(widths)), key=lambda at: whole[at] / widths[at])
        widths[at] += 1
    return widths


def _total(widths: list[int]) -> int:
    """The width of a table with columns of these widths, its frame included."""
    return sum(widths) + 3 * len(widths) + 1


def text(cell) -> str:
    """What a table shows of a value."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    if isinstance(cell, list):      # a shape, as one word
        return str(cell).replace(" ", "")
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
