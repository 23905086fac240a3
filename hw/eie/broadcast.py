"""The broadcast: found activations to the groups of PEs, and outputs out."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import PLACE_LATENCY, EIEConfig
from zeroskip.hw.eie.layouts import STRIDE_WIDTH, activation_layout, work_layout
from zeroskip.hw.eie.lnzd import LNZDNode
from zeroskip.hw.stream import delay, flow


class Broadcast(wiring.Component):
    """Sends one activation a cycle to all PEs or, in a grouped layer, one to each group.

    An activation stays where it is while a queue that it would go to is full. On the way its
    column becomes the place of the column, ``first`` + column * ``stride``, which takes
    ``PLACE_LATENCY`` cycles.

    Members
    -------
    found : In(stream of ``activation_layout``), one per group
        From the LNZD trees.
    search : In(1)
        Activations go to the PEs; otherwise they leave at ``outputs``.
    grouped, first, stride : In
        As in ``descriptor_layout``.
    full : In(groups)
    o : Out(flow of ``work_layout``), one per group
    outputs : Out(stream of ``activation_layout``)
    sent, held : Out(1)
        An activation was sent, or waits for a full queue.
    idle : Out(1)
        No activation is inside or, where only one tree comes in, waits to be sent.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "found": In(stream.Signature(activation_layout(config))).array(config.groups),
            "search": In(1),
            "grouped": In(1),
            "first": In(config.place_width),
            "stride": In(STRIDE_WIDTH),
            "full": In(config.groups),
            "o": Out(flow(work_layout(config))).array(config.groups),
            "outputs": Out(stream.Signature(activation_layout(config))),
            "sent": Out(1),
            "held": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        if len(self.found) == 1:
            apart, merged = Const(0), wiring.flipped(self.found[0])
        else:
            m.submodules.merge = merge = LNZDNode(self.config, self.config.groups)
            apart, merged = self.search & self.grouped, merge.o
            for tree, child in zip(self.found, merge.i, strict=True):
                m.d.comb += [child.payload.eq(tree.payload), child.valid.eq(tree.valid & ~apart),
                             tree.ready.eq(~apart & child.ready)]

        any_full = self.full.any()
        m.d.comb += [
            merged.ready.eq(Mux(self.search, ~any_full, self.outputs.ready)),
            self.outputs.valid.eq(merged.valid & ~self.search),
            self.outputs.payload.eq(merged.payload),
        ]
        sent, held = [], []
        for tree, full, port in zip(self.found, self.full, self.o, strict=True):
            valid, item = merged.valid & self.search & ~any_full, Signal.like(merged.payload)
            m.d.comb += item.eq(merged.payload)
            take = Signal()
            m.d.comb += take.eq(valid)
            with m.If(apart):
                m.d.comb += [item.eq(tree.payload), take.eq(tree.valid & ~full),
                             tree.ready.eq(~full)]
            column, stride = (delay(m, each, 1, reset_less=True)
                              for each in (item.column, self.stride))
            place = delay(m, column * stride, 1, reset_less=True)
            m.d.comb += [
                port.valid.eq(delay(m, take, PLACE_LATENCY)),
                port.payload.place.eq(delay(m, self.first + place, PLACE_LATENCY - 2)),
                port.payload.value.eq(delay(m, item.value, PLACE_LATENCY)),
            ]
            sent.append(take)
            held.append(apart & tree.valid & full)
        m.d.comb += [
            self.sent.eq(Cat(sent).any()),
            self.held.eq(Cat(held).any() | (self.search & merged.valid & any_full)),
            self.idle.eq(~merged.valid),
        ]
        return m
