"""A cluster: the PEs that share an activation unit, wired."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.counters import WIDTH
from zeroskip.hw.eie.activation import ActivationUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import (
    LoadTarget,
    activation_layout,
    command_layout,
    load_word_layout,
    work_layout,
)
from zeroskip.hw.eie.pe import PE
from zeroskip.hw.netlist.share import shared
from zeroskip.hw.stream import delay, flow


class Cluster(wiring.Component):
    """PE c + K * g of every group g, for cluster c of K.

    All clusters are the same module: what tells them apart is the ``identity`` at the port, and
    those of the PEs. What central control says goes through a register here, the last of
    ``broadcast_latency``, if there are any.

    Members
    -------
    identity : In
        Number of this cluster.
    identities : In, one per PE
        Numbers of the PEs.
    load : In(flow of ``load_word_layout``)
    command : In(``command_layout``)
    i : In(flow of ``work_layout``), one per group
        The broadcasts.
    full : Out(groups)
        Which broadcasts must stop.
    found : Out(stream of ``activation_layout``), one per group
        To the LNZD trees.
    scanning : Out(1)
        Something is still to come from ``found``.
    busy : Out(1)
        Any PE is.
    clear_counters : In(1)
    select : In(4); counts : Out(32), one per PE
        A counter (``PECounter``), one cycle later. Saturated outputs count in the first PE.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        groups = config.groups
        super().__init__({
            "identity": In(config.identity_width),
            "identities": In(config.identity_width).array(groups),
            "load": In(flow(load_word_layout(config))),
            "command": In(command_layout(config)),
            "i": In(flow(work_layout(config))).array(groups),
            "full": Out(groups),
            "found": Out(stream.Signature(activation_layout(config))).array(groups),
            "scanning": Out(1),
            "busy": Out(1),
            "clear_counters": In(1),
            "select": In(4),
            "counts": Out(WIDTH).array(groups),
        })

    @shared
    def elaborate(self, platform):
        m = Module()
        config = self.config

        def here(signal):
            return delay(m, signal, min(1, config.broadcast_latency))

        load, valid = here(self.load.payload), here(self.load.valid)
        command, clear = here(self.command), here(self.clear_counters)
        select = here(self.select)
        m.submodules.activation = act = ActivationUnit(config)
        pes = [PE(config) for _ in range(config.groups)]
        for k, pe in enumerate(pes):
            m.submodules[f"pe_{k}"] = pe
            m.d.comb += [
                pe.identity.eq(self.identities[k]),
                pe.load.payload.eq(load), pe.load.valid.eq(valid),
                pe.command.eq(command),
                pe.i.payload.eq(here(self.i[k].payload)), pe.i.valid.eq(here(self.i[k].valid)),
                pe.word.eq(act.word), pe.enable.eq(act.enable), act.values[k].eq(pe.value),
                pe.clear_counters.eq(clear), pe.select.eq(select), self.counts[k].eq(pe.count),
            ]
            wiring.connect(m, act.clear[k], pe.clear)
            wiring.connect(m, act.o[k], wiring.flipped(self.found[k]))

        m.d.comb += [
            act.identity.eq(self.identity),
            act.command.eq(command),
            act.load_bias.en.eq(delay(m, valid & (load.pe == self.identity)
                                      & (load.target == LoadTarget.BIASES), 1)),
            act.load_bias.address.eq(delay(m, load.address, 1)),
            act.load_bias.data.eq(delay(m, load.data, 1)),
            self.scanning.eq(act.scanning),
            pes[0].saturated.eq(act.saturated),
            self.full.eq(Cat(pe.full for pe in pes)),
            self.busy.eq(Cat(pe.busy for pe in pes).any()),
        ]
        return m
