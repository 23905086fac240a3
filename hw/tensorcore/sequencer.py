"""The sequencer: one step of the tile a cycle, whenever its operands are there."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.stream import flow
from zeroskip.hw.tensorcore.config import SPEEDUP, TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import COLUMN_BITS, PATTERNS, gemm, step
from zeroskip.hw.tensorcore.walk import Walk

WAITS = data.StructLayout({"weights": 1, "activations": 1, "outputs": 1})
"""Why no step was issued in a cycle: a buffer is not filled yet, or finished rows pile up."""


class Sequencer(wiring.Component):
    """Walks a whole GEMM, tile by tile.

    A step is issued only when all that follows from it can happen without waiting, so that
    nothing behind it needs to be able to stop: both operands are in their buffers, and for the
    step that finishes a tile there is room for the tile's rows in the output queue, and the
    tile before, finished at least ``rows`` cycles ago, has given its own away.

    Parameters
    ----------
    slots : int
        Rows that the output queue holds.

    Members
    -------
    gemm : In(``gemm``), start : In(1)
    weights_ready, activations_ready, channels_ready : In(1)
    tile : Out
        Number of the tile in its block; ``activations_ready`` is about it.
    weight_address, activation_address : Out
        What the step reads from the buffers.
    step : Out(flow of ``step``)
        In the cycle of the addresses.
    rows : Out
        With a last step: rows of the tile that are wanted.
    release_weights, release_activations : Out(1)
        After this cycle's reads the panel, the block, is done with.
    panel_done : Out(1)
        The last step of a panel of rows in a block.
    taken : In(1)
        A row has left the output queue.
    busy : Out(1)
        Steps are still to come, or rows to be taken.
    waits : Out(``WAITS``)
    """

    def __init__(self, config: TensorCoreConfig, *, slots: int):
        self.config, self.slots = config, slots
        super().__init__({
            "gemm": In(gemm(config)),
            "start": In(1),
            "weights_ready": In(1),
            "activations_ready": In(1),
            "channels_ready": In(1),
            "tile": Out(config.activation_address),
            "weight_address": Out(config.weight_address),
            "activation_address": Out(config.activation_address),
            "step": Out(flow(step(config))),
            "rows": Out(bits_for(config.rows)),
            "release_weights": Out(1),
            "release_activations": Out(1),
            "panel_done": Out(1),
            "taken": In(1),
            "busy": Out(1),
            "waits": Out(WAITS),
        })

    def elaborate(self, platform):
        m = Module()
        config, gemm, step = self.config, self.gemm, self.step.payload
        m.submodules.walk = walk = Walk(config)
        tile_done, block_done = Signal(), Signal()
        m.d.comb += [
            walk.gemm.eq(gemm), walk.start.eq(self.start), walk.next.eq(block_done),
            self.rows.eq(walk.rows),
        ]
        may_finish, empty = self._room(m)
        operands = self.weights_ready & self.channels_ready & self.activations_ready
        last_step = self.weight_address + 1 == gemm.steps
        m.d.comb += [
            step.first.eq(walk.first_chunk & (self.weight_address == 0)),
            step.last.eq(walk.last_chunk & last_step),
            self.step.valid.eq(walk.active & operands & (may_finish | ~step.last)),
            tile_done.eq(self.step.valid & last_step),
            self.busy.eq(walk.active | ~empty),
            self.waits.weights.eq(walk.active & ~(self.weights_ready & self.channels_ready)),
            self.waits.activations.eq(walk.active & self.weights_ready & self.channels_ready
                                      & ~self.activations_ready),
            self.waits.outputs.eq(walk.active & operands & ~self.step.valid),
        ]
        self._addresses(m, tile_done, block_done)

        column = Signal(COLUMN_BITS)
        m.d.comb += [
            block_done.eq(tile_done & (column + config.columns >= walk.columns)),
            self.release_weights.eq(block_done),
            self.release_activations.eq(block_done & (walk.last_panel | (gemm.chunks != 1))),
            self.panel_done.eq(block_done & walk.last_chunk),
        ]
        with m.If(block_done):
            m.d.sync += [self.tile.eq(0), column.eq(0)]
        with m.Elif(tile_done):
            m.d.sync += [self.tile.eq(self.tile + 1), column.eq(column + config.columns)]
        return m

    def _addresses(self, m: Module, tile_done: Value, block_done: Value):
        """Weights go on with every step, activations after the last phase of a word."""
        span = self.config.span
        word, base = (Signal(self.config.activation_address) for _ in range(2))
        phase, last_phase = (Signal(self.config.phase_width) for _ in range(2))
        with m.Switch(self.gemm.pattern):
            for name in self.config.patterns:
                with m.Case(PATTERNS[name]):
                    m.d.comb += last_phase.eq(span // SPEEDUP[name] - 1)
        m.d.comb += [self.step.payload.phase.eq(phase), self.activation_address.eq(base + word)]
        with m.If(tile_done):
            m.d.sync += [self.weight_address.eq(0), phase.eq(0), word.eq(0),
                         base.eq(Mux(block_done, 0, base + self.gemm.words))]
        with m.Elif(self.step.valid):
            m.d.sync += [self.weight_address.eq(self.weight_address + 1), phase.eq(phase + 1)]
            with m.If(phase == last_phase):
                m.d.sync += [phase.eq(0), word.eq(word + 1)]

    def _room(self, m: Module) -> tuple[Value, Value]:
        """Whether a tile may be finished, and whether every finished row was taken."""
        room, gap = Signal(bits_for(self.slots), init=self.slots), Signal(range(self.config.rows))
        finish = self.step.valid & self.step.payload.last
        m.d.sync += room.eq(room + self.taken - Mux(finish, self.rows, 0))
        with m.If(finish):
            m.d.sync += gap.eq(self.config.rows - 1)
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        return (gap == 0) & (room >= self.rows), room == self.slots
