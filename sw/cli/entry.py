"""The program's entry point, which imports next to nothing until it knows how to end."""

import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ends from outside: from the keyboard, from another program, with the terminal."""

NO_MEMORY = ("there is too little memory to start; raise the limit of memory, which 'ulimit -v' "
             "shows")


def main() -> None:
    """Runs a command. An end from outside leaves with 128 and the signal's number, as in a shell.

    While modules are imported there is nothing to clean up, and an exception in the middle of it
    could get lost; later it is one, so that all that a command has started ends with it.
    """
    _on_signals(_at_once)
    try:
        from zeroskip.sw.cli.main import main as run
    except MemoryError:
        if "--json" in sys.argv:
            print(f'{{"error": "{NO_MEMORY}"}}')
        else:
            print(f"zeroskip: {NO_MEMORY}", file=sys.stderr)
        sys.exit(2)
    _on_signals(_leave)
    run()


def _at_once(number: int, _frame) -> None:
    os._exit(128 + number)


def _leave(number: int, _frame) -> None:
    _on_signals(signal.SIG_IGN)     # a second one would disturb the end
    signal.signal(signal.SIGINT, _at_once)      # unless somebody at the keyboard wants that
    sys.exit(128 + number)


def _on_signals(act) -> None:
    """What happens on a signal that is not ignored, as those of ``nohup`` are."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, act)
