"""The ways in which a request can fail that are not a defect of this program."""


class BadInput(ValueError):
    """The input cannot be used.

    The message is one sentence for the user: it names the thing, the place and the remedy.
    The command line prints it on stderr and exits with 2.
    """


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
