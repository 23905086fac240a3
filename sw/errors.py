"""The ways in which a request can fail that are not a defect of this program."""

LINE, LINES = 1000, 200
"""Most characters of a line of a message, and most lines: a file's names may be of any length."""


class BadInput(ValueError):
    """The input cannot be used.

    The message is one sentence for the user: it names the thing, the place and the remedy.
    The command line prints it on stderr and exits with 2. Of what is too long the middle is left
    out, so that place and remedy stay.
    """

    def __init__(self, message: str):
        lines = _cut(message.split("\n"), LINES, ["..."])
        super().__init__("\n".join(_cut(line, LINE, " ... ") for line in lines))


def _cut(text, most: int, mark):
    """``text``, a string or a list, or its two ends with ``mark`` between: ``most`` in all."""
    if len(text) <= most:
        return text
    tail = most // 3
    return text[:most - tail - len(mark)] + mark + text[-tail:]


class ToolMissing(RuntimeError):
    """A tool or an optional package is not installed.

    The message says which, and how to get it. The command line exits with 3.
    """


class EngineError(RuntimeError):
    """An engine did not do what was asked.

    The message is one sentence for the user. The command line prints it and exits with 1.
    """


class LinkError(EngineError):
    """A board did not do what was asked."""
