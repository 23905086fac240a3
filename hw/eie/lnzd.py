"""Leading-non-zero detection: finds the next activation to broadcast (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import activation

FAN_IN = 4
"""Clusters, or nodes, below one node."""


class LNZDNode(wiring.Component):
    """Passes on the leading one of up to four children that has a non-zero activation.

    Latency is one cycle, throughput one activation a cycle. The lowest child goes first. A second
    register takes what comes when ``o`` stops, so that ``ready`` depends on no other.

    Members
    -------
    i : In(stream of ``activation``), one per child
    o : Out(stream of ``activation``)
    """

    def __init__(self, config: EIEConfig, children: int):
        if not 1 <= children <= FAN_IN:
            raise ValueError(f"children must be 1 to {FAN_IN}, not {children}")
        self.children = children
        super().__init__({
            "i": In(stream.Signature(activation(config))).array(children),
            "o": Out(stream.Signature(activation(config))),
        })

    def elaborate(self, platform):
        m = Module()
        chosen, spare, holds = Signal.like(self.o.payload), Signal.like(self.o.payload), Signal()
        any_valid = Cat(child.valid for child in self.i).any()
        earlier = Const(0, 1)
        for child in self.i:
            m.d.comb += child.ready.eq(~holds & ~earlier)
            earlier = earlier | child.valid
        for child in reversed(self.i):
            with m.If(child.valid):
                m.d.comb += chosen.eq(child.payload)

        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [self.o.valid.eq(holds | any_valid), holds.eq(0),
                         self.o.payload.eq(Mux(holds, spare, chosen))]
        with m.Elif(~holds):
            m.d.sync += holds.eq(any_valid)
        with m.If(~holds):
            m.d.sync += spare.eq(chosen)
        return m


class LNZDTree(wiring.Component):
    """The tree of nodes over the clusters, for one group: 16 + 4 + 1 for 64.

    Latency is one cycle per level, throughput one activation a cycle.

    Members
    -------
    i : In(stream of ``activation``), one per cluster
    o : Out(stream of ``activation``)
    idle : Out(1)
        No activation is inside.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(activation(config))).array(config.clusters),
            "o": Out(stream.Signature(activation(config))),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        below = [wiring.flipped(leaf) for leaf in self.i]
        nodes = []
        while not nodes or len(below) > 1:
            groups = [below[at:at + FAN_IN] for at in range(0, len(below), FAN_IN)]
            below = []
            for group in groups:
                node = LNZDNode(self.config, len(group))
                m.submodules[f"node_{len(nodes)}"] = node
                for child, port in zip(group, node.i, strict=True):
                    wiring.connect(m, child, port)
                nodes.append(node)
                below.append(node.o)
        wiring.connect(m, below[0], wiring.flipped(self.o))
        m.d.comb += self.idle.eq(~Cat(node.o.valid for node in nodes).any())
        return m
