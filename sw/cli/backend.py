"""Which backend a command takes where none is named."""

from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.runtime import backends


def chosen(name: str | None, screen: Screen) -> str:
    """``name``, or the fastest backend that is found; says so where that is the slow one."""
    if name:
        return name
    name = backends.default()
    if name == "python":
        screen.notice("zeroskip: backend python runs, hundreds of times slower than cxxrtl, which "
                      "needs a C++ compiler; install g++, or 'pip install ziglang'")
    return name
