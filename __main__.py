"""``python -m zeroskip``: the command line; see :mod:`zeroskip.sw.cli.entry`."""

from zeroskip.sw.cli.entry import main

main()
