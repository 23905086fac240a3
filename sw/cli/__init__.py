"""The command line: the one place that composes all parts, each command with its own imports."""

from zeroskip.sw.cli.main import main

__all__ = ["main"]
