"""The tensor core: buffers, tile, epilogue and sequencer, wired."""

from amaranth.hdl import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.core import CoreSignature
from zeroskip.hw.counters import WIDTH, count
from zeroskip.hw.stream import delay
from zeroskip.hw.tensorcore.buffers import ActivationBuffer, ChannelBuffer, WeightBuffer
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.drain import Drain
from zeroskip.hw.tensorcore.layouts import (
    CHANNEL,
    gemm_layout,
    output_layout,
    panel_layout,
    strip_layout,
)
from zeroskip.hw.tensorcore.sequencer import Sequencer
from zeroskip.hw.tensorcore.tile import Tile


class CoreCounter(enum.Enum, shape=3):
    """Counters of the core. Cycles that are in none of the middle four fill and empty the
    pipeline at the ends of a GEMM."""

    CYCLES = 0              # from a command until its last output is taken
    STEPS = 1               # every multiplier got operands
    WAIT_WEIGHTS = 2        # no step: the panel's weights or channels were not loaded yet
    WAIT_ACTIVATIONS = 3    # no step: the columns were not loaded yet
    WAIT_OUTPUTS = 4        # no step: finished rows had not left yet
    GEMMS = 5               # commands finished


class TensorCore(wiring.Component):
    """D = A . B, A with zeros in a 2:4 pattern or dense, for any size of the three matrices.

    A command starts a GEMM. Then the operands enter, each stream in its own order and at its
    own pace, while the rows of D leave: tile by tile along a block, panel by panel, block by
    block, and in each tile the rows that A has. The next panel's weights and the next block's
    activations are loaded while the ones before are computed on.

    Members
    -------
    commands : In(stream of ``gemm_layout``)
        Taken while the core is idle.
    weights : In(stream of ``panel_layout``)
        See :class:`WeightBuffer`.
    activations : In(stream of ``strip_layout``)
        See :class:`ActivationBuffer`.
    channels : In(stream of ``CHANNEL``)
        See :class:`ChannelBuffer`.
    outputs : Out(stream of ``output_layout``)
    busy : Out(1)
    stats : In(clear, select) and Out(count)
        A performance counter (``CoreCounter``), ``stats_latency`` cycles after its address.
    """

    stats_latency = 1

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__(CoreSignature(
            control={
                "busy": Out(1),
                "stats": In(wiring.Signature({
                    "clear": Out(1), "select": Out(4), "count": In(WIDTH)})),
            },
            streams={
                "commands": In(stream.Signature(gemm_layout(config))),
                "weights": In(stream.Signature(panel_layout(config))),
                "channels": In(stream.Signature(CHANNEL)),
                "activations": In(stream.Signature(strip_layout(config))),
                "outputs": Out(stream.Signature(output_layout(config))),
            },
            latency={"stats": self.stats_latency}))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        command, busy, start = Signal(gemm_layout(config)), Signal(), Signal()
        m.submodules.weight_buffer = weights = WeightBuffer(config)
        m.submodules.activation_buffer = activations = ActivationBuffer(config)
        m.submodules.channel_buffer = channels = ChannelBuffer(config)
        # Room for the rows in flight while two tiles' rows wait.
        m.submodules.sequencer = sequencer = Sequencer(
            config, slots=Drain.latency(config) + 2 * config.rows + 1)
        for name, block in (("weights", weights), ("activations", activations),
                            ("channels", channels)):
            wiring.connect(m, wiring.flipped(getattr(self, name)), block.i)
        for block in (weights, activations, channels, sequencer):
            m.d.comb += [block.gemm.eq(command), block.start.eq(start)]
        m.d.comb += [self.commands.ready.eq(~busy), self.busy.eq(busy)]
        finished = busy & ~start & ~sequencer.busy
        with m.If(self.commands.valid & self.commands.ready):
            m.d.sync += [command.eq(self.commands.payload), busy.eq(1), start.eq(1)]
        with m.Else():
            m.d.sync += start.eq(0)
            with m.If(finished):
                m.d.sync += busy.eq(0)

        m.submodules.drain = drain = Drain(config, slots=sequencer.slots)
        self._sequence(m, sequencer, weights, activations, channels)
        self._compute(m, command, sequencer, weights, activations, drain)
        self._drain(m, command, sequencer, channels, drain)
        m.d.comb += self.stats.count.eq(count(m, {
            CoreCounter.CYCLES: self.busy,
            CoreCounter.STEPS: sequencer.step.valid,
            CoreCounter.WAIT_WEIGHTS: sequencer.waits.weights,
            CoreCounter.WAIT_ACTIVATIONS: sequencer.waits.activations,
            CoreCounter.WAIT_OUTPUTS: sequencer.waits.outputs,
            CoreCounter.GEMMS: finished,
        }, clear=self.stats.clear, select=self.stats.select))
        return m

    def _sequence(self, m: Module, sequencer: Sequencer, weights: WeightBuffer,
                  activations: ActivationBuffer, channels: ChannelBuffer):
        m.d.comb += [
            sequencer.weights_ready.eq(weights.ready),
            weights.address.eq(sequencer.weight_address),
            weights.release.eq(sequencer.block_done),
            sequencer.activations_ready.eq(activations.ready),
            activations.tile_done.eq(sequencer.tile_done),
            activations.block_done.eq(sequencer.block_done),
            activations.address.eq(sequencer.activation_address),
            activations.release.eq(sequencer.release_activations),
            sequencer.channels_ready.eq(channels.ready),
            channels.claim.eq(sequencer.panel_done),
            sequencer.taken.eq(self.outputs.valid & self.outputs.ready),
        ]

    def _compute(self, m: Module, command: data.View, sequencer: Sequencer, weights: WeightBuffer,
                 activations: ActivationBuffer, drain: Drain):
        m.submodules.tile = tile = Tile(self.config)
        m.d.comb += [
            tile.pattern.eq(command.pattern),
            tile.int4.eq(command.int4),
            tile.step.valid.eq(delay(m, sequencer.step.valid, WeightBuffer.LATENCY)),
            tile.step.payload.eq(delay(m, sequencer.step.payload, WeightBuffer.LATENCY)),
            tile.weights.eq(weights.o),
            tile.activations.eq(activations.o),
            drain.row.eq(tile.row),
        ]

    def _drain(self, m: Module, command: data.View, sequencer: Sequencer,
               channels: ChannelBuffer, drain: Drain):
        wiring.connect(m, drain.outputs, wiring.flipped(self.outputs))
        m.d.comb += [
            drain.gemm.eq(command),
            drain.finish.eq(sequencer.step.valid & sequencer.step.payload.last),
            drain.rows.eq(sequencer.rows),
            drain.panel_done.eq(sequencer.panel_done),
            channels.address.eq(drain.address),
            channels.release.eq(drain.release),
            drain.channel.eq(channels.o),
        ]
