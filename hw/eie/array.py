"""The EIE array: clusters of processing elements, LNZD trees and central control, wired."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.core import CoreSignature
from zeroskip.hw.counters import WIDTH
from zeroskip.hw.eie.cluster import Cluster
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.control import CentralControl
from zeroskip.hw.eie.layouts import INPUT, load_word_layout, output_layout
from zeroskip.hw.eie.lnzd import LNZDTree
from zeroskip.hw.stream import delay, either


class EIE(wiring.Component):
    """Efficient inference engine (Han et al., ISCA 2016) for a whole network.

    A host loads weights, pointers, biases, codebooks and descriptors once. Then each vector
    that enters at ``inputs`` is one inference: its last element starts all layers, and the
    outputs of the layers whose descriptors ask for them leave at ``outputs``, each with its
    index, in the order in which they are found.

    Members
    -------
    load : In(stream of ``load_word_layout``)
    inputs : In(stream of ``INPUT``)
        One activation a cycle, in order; taken while no network runs.
    outputs : Out(stream of ``output_layout``)
    busy : Out(1)
        A network is being computed or its outputs leave; loads and inputs wait.
    stats : In(pe, select) and Out(count)
        A performance counter, ``config.stats_latency`` cycles after its address: ``PECounter`` of
        PE ``pe``, or ``ControlCounter`` where ``pe`` is the number of PEs. Zero when built
        without counters.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__(CoreSignature(
            control={
                "busy": Out(1),
                "stats": In(wiring.Signature({
                    "pe": Out(bits_for(config.pes)), "select": Out(4), "count": In(WIDTH)})),
            },
            streams={
                "load": In(stream.Signature(load_word_layout(config))),
                "inputs": In(stream.Signature(INPUT)),
                "outputs": Out(stream.Signature(output_layout(config))),
            },
            latency={"stats": config.stats_latency}))

    def elaborate(self, platform):
        m = Module()
        config, latency = self.config, self.config.broadcast_latency
        m.submodules.control = control = CentralControl(config)
        trees = [LNZDTree(config) for _ in range(config.groups)]
        for g, tree in enumerate(trees):
            m.submodules[f"lnzd_{g}"] = tree
            wiring.connect(m, tree.o, control.found[g])
        clusters = [Cluster(config) for _ in range(config.clusters)]
        for c, cluster in enumerate(clusters):
            m.submodules[f"cluster_{c}"] = cluster
            m.d.comb += cluster.identity.eq(self._identity(m, c, f"identity_{c}"))
            for g, tree in enumerate(trees):
                number = c + config.clusters * g
                m.d.comb += cluster.identities[g].eq(
                    self._identity(m, number, f"identity_pe_{number}"))
                wiring.connect(m, cluster.found[g], tree.i[c])

        for name in ("load", "inputs"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(control, name))
        wiring.connect(m, control.outputs, wiring.flipped(self.outputs))
        m.d.comb += [control.found_idle.eq(Cat(tree.idle for tree in trees).all()),
                     self.busy.eq(~control.load.ready)]

        # To all clusters; the last register on the way is the cluster's own.
        def down(signal):
            return delay(m, signal, max(0, latency - 1))

        write, valid = down(control.write.payload), down(control.write.valid)
        command, clear = down(control.command), down(control.clear)
        work = [(down(group.payload), down(group.valid)) for group in control.broadcast]
        select = delay(m, self.stats.select, 1)
        for cluster in clusters:
            m.d.comb += [
                cluster.load.payload.eq(write), cluster.load.valid.eq(valid),
                cluster.command.eq(command), cluster.clear_counters.eq(clear),
                cluster.select.eq(down(select)),
            ]
            for port, (payload, is_valid) in zip(cluster.i, work, strict=True):
                m.d.comb += [port.payload.eq(payload), port.valid.eq(is_valid)]
        # And back from any of them.
        for name in ("full", "scanning", "busy"):
            m.d.comb += getattr(control, name).eq(
                either(m, [getattr(cluster, name) for cluster in clusters], latency))

        m.d.comb += control.select.eq(delay(m, select, latency))
        if config.counters:
            counts = [cluster.counts[g] for g in range(config.groups) for cluster in clusters]
            asked = delay(m, self.stats.pe, latency + 1)
            m.d.comb += self.stats.count.eq(either(
                m, [count & delay(m, asked == k, 1).replicate(WIDTH)
                    for k, count in enumerate([*counts, control.count])], latency))
        return m

    def _identity(self, m: Module, number: int, name: str) -> Signal:
        """A register that never changes, which synthesis turns into a constant: Amaranth would
        write a constant into the PE, and no two PEs were the same module."""
        identity = Signal(self.config.identity_width, init=number, name=name)
        m.d.sync += identity.eq(identity)
        return identity
