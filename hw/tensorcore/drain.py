"""The drain: the rows of finished tiles, requantised, on their way out."""

from amaranth.hdl import *
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.stream import delay
from zeroskip.hw.tensorcore.buffers import ChannelBuffer, WeightBuffer
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.epilogue import Requantise
from zeroskip.hw.tensorcore.layouts import CHANNEL, gemm_layout, output_layout, tile_row_layout
from zeroskip.hw.tensorcore.tile import Tile


class Drain(wiring.Component):
    """Counts the rows of each finished tile out of it, beside their channels, through a requantiser
    per column into the output queue.

    Nothing stalls on the way: the sequencer finishes a tile only if the queue has room for all its
    rows. A row is in the queue ``latency`` cycles after the tile's last step, the others follow one
    a cycle.

    Parameters
    ----------
    slots : int
        Rows that the output queue holds.

    Members
    -------
    gemm : In(``gemm_layout``)
    finish : In(1)
        The last step of a tile is issued.
    rows : In
        With it: rows of the tile that are wanted.
    panel_done : In(1)
        And it was the last step of a panel of rows.
    row : In(``tile_row_layout``)
        From the tile, ``Tile.latency`` cycles after the operands of its last step.
    address, release : Out; channel : In(``CHANNEL``)
        The :class:`~zeroskip.hw.tensorcore.buffers.ChannelBuffer`.
    outputs : Out(stream of ``output_layout``)
    """

    def __init__(self, config: TensorCoreConfig, *, slots: int):
        self.config, self.slots = config, slots
        super().__init__({
            "gemm": In(gemm_layout(config)),
            "finish": In(1),
            "rows": In(bits_for(config.rows)),
            "panel_done": In(1),
            "row": In(tile_row_layout(config)),
            "address": Out(range(config.rows)),
            "release": Out(1),
            "channel": In(CHANNEL),
            "outputs": Out(stream.Signature(output_layout(config))),
        })

    @staticmethod
    def latency(config: TensorCoreConfig) -> int:
        """Cycles from a tile's last step to its first row at the output queue."""
        return WeightBuffer.LATENCY + Tile.latency(config) + Requantise.LATENCY

    def elaborate(self, platform):
        m = Module()
        config = self.config
        # A row's channel is addressed as much earlier than the row is there as its memory takes.
        until = WeightBuffer.LATENCY + Tile.latency(config) - ChannelBuffer.LATENCY - 1
        finish, wanted = (delay(m, each, until) for each in (self.finish, self.rows))
        left = Signal.like(wanted)
        with m.If(finish):
            m.d.sync += [left.eq(wanted), self.address.eq(0)]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), self.address.eq(self.address + 1)]
        m.d.comb += self.release.eq(delay(m, self.panel_done, until + config.rows))

        results = Signal(output_layout(config))
        for c in range(config.columns):
            m.submodules[f"requantise_{c}"] = requantise = Requantise()
            m.d.comb += [
                requantise.accumulator.eq(self.row[c]),
                requantise.channel.eq(self.channel),
                requantise.zero_point.eq(self.gemm.zero_point),
                requantise.relu.eq(self.gemm.relu),
                requantise.raw.eq(self.gemm.raw),
                results["values"][c].eq(requantise.o.value),
                results.saturated[c].eq(requantise.o.saturated),
            ]
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(
            width=len(results.as_value()), depth=self.slots)
        m.d.comb += [
            queue.w_en.eq(delay(m, left != 0, ChannelBuffer.LATENCY + Requantise.LATENCY)),
            queue.w_data.eq(results),
            self.outputs.valid.eq(queue.r_rdy),
            self.outputs.payload.eq(queue.r_data),
            queue.r_en.eq(self.outputs.ready),
        ]
        return m
