"""The families of FPGAs, a module each: whatever module is here is one of them."""

import sys

from zeroskip.fpga.family import Family
from zeroskip.fpga.listing import values

FAMILIES: dict[str, type[Family]] = {
    known.name: known for known in values(sys.modules[__name__])
    if isinstance(known, type) and issubclass(known, Family) and known is not Family}
"""By name."""
