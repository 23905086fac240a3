"""The LNZD tree (paper, section IV): passes on the leading activation of those that the activation
units found not to be zero."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import activation_layout
from zeroskip.hw.stream import Skid

FAN_IN = 4
"""Clusters, or nodes, below one node."""


class LNZDNode(wiring.Component):
    """Passes on the leading one of up to four children that has a non-zero activation.

    Latency is one cycle, throughput one activation a cycle. The lowest child goes first; what is
    offered stays until it is taken. Each child has a register of its own here, so that what goes to
    and from it waits for no logic.

    Members
    -------
    i : In(stream of ``activation_layout``), one per child
    o : Out(stream of ``activation_layout``)
    """

    def __init__(self, config: EIEConfig, children: int):
        if not 1 <= children <= FAN_IN:
            raise ValueError(f"children must be 1 to {FAN_IN}, not {children}")
        self.children = children
        super().__init__({
            "i": In(stream.Signature(activation_layout(config))).array(children),
            "o": Out(stream.Signature(activation_layout(config))),
        })

    def elaborate(self, platform):
        m = Module()
        skids = [Skid(self.o.payload.shape()) for _ in self.i]
        waiting = Cat(skid.o.valid for skid in skids)
        leading = Cat(bit & ~waiting[:k].any() for k, bit in enumerate(waiting))
        waits, chosen, choice = Signal(), Signal(self.children), Signal(self.children)
        m.d.comb += [self.o.valid.eq(waiting.any()), choice.eq(Mux(waits, chosen, leading))]
        m.d.sync += [waits.eq(self.o.valid & ~self.o.ready), chosen.eq(choice)]
        for k, (skid, child) in enumerate(zip(skids, self.i, strict=True)):
            m.submodules[f"skid_{k}"] = skid
            wiring.connect(m, wiring.flipped(child), skid.i)
            m.d.comb += skid.o.ready.eq(self.o.ready & choice[k])
            with m.If(choice[k]):
                m.d.comb += self.o.payload.eq(skid.o.payload)
        return m


class LNZDTree(wiring.Component):
    """The tree of nodes over the clusters, for one group: 16 + 4 + 1 for 64, none for one.

    Latency is one cycle per level, throughput one activation a cycle.

    Members
    -------
    i : In(stream of ``activation_layout``), one per cluster
    o : Out(stream of ``activation_layout``)
    idle : Out(1)
        No activation is inside.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(activation_layout(config))).array(config.clusters),
            "o": Out(stream.Signature(activation_layout(config))),
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
