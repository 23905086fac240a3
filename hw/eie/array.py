"""The EIE array: N processing elements, the LNZD tree and central control, wired."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.counters import WIDTH
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.control import INPUT, CentralControl, output
from zeroskip.hw.eie.layouts import load_word
from zeroskip.hw.eie.lnzd import LNZDTree
from zeroskip.hw.eie.pe import PE
from zeroskip.hw.stream import delay


class EIE(wiring.Component):
    """Efficient inference engine (Han et al., ISCA 2016) for a whole network.

    A host loads weights, pointers, biases, codebooks and descriptors once. Then each vector
    that enters at ``inputs`` is one inference: its last element starts all layers, and the
    outputs of the layers whose descriptors ask for them leave at ``outputs``, each with its
    index, in the order in which they are found.

    Members
    -------
    load : In(stream of ``load_word``)
    inputs : In(stream of ``INPUT``)
        One activation a cycle, in order; taken while no network runs.
    outputs : Out(stream of ``output``)
    busy : Out(1)
        A network is being computed or its outputs leave; loads and inputs wait.
    stats : In(pe, select) and Out(count)
        A performance counter, ``STATS_LATENCY`` cycles after its address: ``PECounter`` of PE
        ``pe``, or ``ControlCounter`` where ``pe`` is the number of PEs. Zero when built
        without counters.
    """

    STATS_LATENCY = 2

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "load": In(stream.Signature(load_word(config))),
            "inputs": In(stream.Signature(INPUT)),
            "outputs": Out(stream.Signature(output(config))),
            "busy": Out(1),
            "stats": In(wiring.Signature({
                "pe": Out(bits_for(config.pes)), "select": Out(4), "count": In(WIDTH)})),
        })

    def elaborate(self, platform):
        m = Module()
        latency = self.config.broadcast_latency
        m.submodules.control = control = CentralControl(self.config)
        m.submodules.lnzd = lnzd = LNZDTree(self.config)
        pes = [PE(self.config) for _ in range(self.config.pes)]
        for k, (pe, leaf) in enumerate(zip(pes, lnzd.i, strict=True)):
            m.submodules[f"pe_{k}"] = pe
            # A register that never changes, which synthesis turns into a constant: Amaranth
            # would write a constant into the PE, and no two PEs were the same module.
            identity = Signal(self.config.identity_width, init=k, name=f"identity_{k}")
            m.d.sync += identity.eq(identity)
            m.d.comb += pe.identity.eq(identity)
            wiring.connect(m, pe.found, leaf)

        for name in ("load", "inputs"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(control, name))
        wiring.connect(m, control.outputs, wiring.flipped(self.outputs))
        wiring.connect(m, lnzd.o, control.found)
        m.d.comb += [control.found_idle.eq(lnzd.idle), self.busy.eq(~control.load.ready)]

        # To all PEs, and back from any of them.
        down = {name: delay(m, signal, latency) for name, signal in {
            "write": control.write.payload, "write_valid": control.write.valid,
            "broadcast": control.broadcast.payload, "broadcast_valid": control.broadcast.valid,
            "command": control.command, "clear": control.clear}.items()}
        for pe in pes:
            m.d.comb += [
                pe.load.payload.eq(down["write"]), pe.load.valid.eq(down["write_valid"]),
                pe.i.payload.eq(down["broadcast"]), pe.i.valid.eq(down["broadcast_valid"]),
                pe.command.eq(down["command"]), pe.clear.eq(down["clear"]),
                pe.select.eq(self.stats.select),
            ]
        for name in ("full", "scanning", "busy"):
            any_pe = Cat(getattr(pe, name) for pe in pes).any()
            m.d.comb += getattr(control, name).eq(delay(m, any_pe, latency))

        m.d.comb += control.select.eq(self.stats.select)
        if self.config.counters:
            with m.Switch(delay(m, self.stats.pe, 1)):
                for k, unit in enumerate([*pes, control]):
                    with m.Case(k):
                        m.d.sync += self.stats.count.eq(unit.count)
        return m
