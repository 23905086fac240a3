"""The bus between a front, which speaks to the host, and the registers of a system."""

from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out


class Status(enum.Enum, shape=2):
    """How a request ended."""

    OK = 0
    RANGE = 1
    """There is no such address, or it is not that of a whole word, or it cannot be read, or
    written, or not with these strobes; nothing happened."""
    BUSY = 2
    """A window has no room, or nothing to give now; nothing happened."""


REQUEST = data.StructLayout({"address": 16, "write": 1, "strobes": 4, "data": 32})
"""The address counts bytes, and is that of a word of 32 bits, a multiple of four. A write has
``data``, whose byte k is written where bit k of ``strobes`` is set; a read looks at neither."""

RESPONSE = data.StructLayout({"data": 32, "status": Status})
"""``data`` is zero unless the request was a read that ended well."""

BUS = wiring.Signature({
    "request": Out(stream.Signature(REQUEST)),
    "response": In(stream.Signature(RESPONSE)),
})
"""The bus as its initiator sees it.

Each request gets exactly one response, in order, and the initiator has at most one request
without its response. Any number of cycles may lie between the two. The response's payload is zero
while it is not valid, so that those of several can be added by OR.
"""
