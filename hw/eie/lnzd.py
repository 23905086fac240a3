"""Leading-non-zero detection: finds the next activation to broadcast (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import activation
from zeroskip.hw.stream import Skid

FAN_IN = 4
"""Clusters, or nodes, below one node."""


class LNZDNode(wiring.Component):
    """Passes on the leading one of up to four children that has a non-zero activation.

    Latency is one cycle, throughput one activation a cycle. The lowest child goes first. Each has a
    register of its own here, so that what goes to and from it waits for no logic.

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
        m, earlier = Module(), Const(0, 1)
        for k, child in enumerate(self.i):
            m.submodules[f"skid_{k}"] = skid = Skid(self.o.payload.shape())
            wiring.connect(m, wiring.flipped(child), skid.i)
            m.d.comb += skid.o.ready.eq(self.o.ready & ~earlier)
            with m.If(skid.o.valid & ~earlier):
                m.d.comb += self.o.payload.eq(skid.o.payload)
            earlier = earlier | skid.o.valid
        m.d.comb += self.o.valid.eq(earlier)
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
        while len(below) > 1:
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
