"""Pages of the bus, one for each of what answers on it."""

from functools import reduce
from operator import or_

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.bus import BUS, REQUEST, Status

PAGE = 0x1000
"""Bytes of a page."""


class Decoder(wiring.Component):
    """Leads each request to the page of its address; what no page is for it answers ``RANGE``.

    It is combinational between the buses.

    Members
    -------
    bus : In(BUS)
    pages : list of Out(BUS)
        Page k has the addresses from ``PAGE * k`` on, and sees them from 0 on.
    """

    def __init__(self, count: int):
        most = (1 << REQUEST["address"].width) // PAGE
        if not 1 <= count <= most:
            raise ValueError(f"pages must be 1 to {most}, not {count}")
        super().__init__({"bus": In(BUS), "pages": Out(BUS).array(count)})

    def elaborate(self, platform):
        m = Module()
        request, response = self.bus.request, self.bus.response
        place, number = request.p.address[:12], request.p.address[12:]
        nowhere, missed = number >= len(self.pages), Signal()
        m.d.comb += request.ready.eq(nowhere & ~missed)
        for k, page in enumerate(self.pages):
            m.d.comb += [
                page.request.payload.eq(request.payload), page.request.p.address.eq(place),
                page.request.valid.eq(request.valid & (number == k)),
                page.response.ready.eq(response.ready),
            ]
            with m.If(number == k):
                m.d.comb += request.ready.eq(page.request.ready)
        m.d.sync += missed.eq(Mux(missed, ~response.ready, request.valid & nowhere))
        m.d.comb += [
            response.valid.eq(Cat(page.response.valid for page in self.pages).any() | missed),
            response.payload.eq(reduce(or_, (page.response.payload.as_value()
                                             for page in self.pages))),
        ]
        with m.If(missed):
            m.d.comb += response.p.status.eq(Status.RANGE)
        return m
