"""The sequencer: one step of the tile a cycle, whenever its operands are there."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.stream import flow
from zeroskip.hw.tensorcore.config import SPEEDUP, TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import PATTERNS, gemm_layout, step_layout
from zeroskip.hw.tensorcore.walk import Walk

WAITS = data.StructLayout({"weights": 1, "activations": 1, "outputs": 1})
"""Why no step was issued in a cycle: a buffer is not filled yet, or finished rows pile up."""


class Sequencer(wiring.Component):
    """Walks a whole GEMM, tile by tile.

    A step is issued only when all that follows from it can happen without waiting, so that
    nothing behind it needs to be able to stop: both operands are in their buffers, and for the
    step that finishes a tile there was room a cycle ago for all rows that a tile can have in the
    output queue, and the tile before, finished at least ``rows`` cycles ago, has given its own
    away.

    Parameters
    ----------
    slots : int
        Rows that the output queue holds.

    Members
    -------
    gemm : In(``gemm_layout``), start : In(1)
    weights_ready, activations_ready, channels_ready : In(1)
    weight_address, activation_address : Out
        What the step reads from the buffers.
    step : Out(flow of ``step_layout``)
        In the cycle of the addresses.
    rows : Out
        With a last step: rows of the tile that are wanted.
    tile_done : Out(1)
        The last step of a tile: ``activations_ready`` is about the next one from now on.
    block_done : Out(1)
        It was the last tile of the block, or of its chunk: the weights are done with.
    release_activations : Out(1)
        And so are the activations.
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
            "gemm": In(gemm_layout(config)),
            "start": In(1),
            "weights_ready": In(1),
            "activations_ready": In(1),
            "channels_ready": In(1),
            "weight_address": Out(config.weight_address),
            "activation_address": Out(config.activation_address),
            "step": Out(flow(step_layout(config))),
            "rows": Out(bits_for(config.rows)),
            "tile_done": Out(1),
            "block_done": Out(1),
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
        m.d.comb += [
            walk.gemm.eq(gemm), walk.start.eq(self.start), walk.tile.eq(self.tile_done),
            walk.next.eq(self.block_done), self.rows.eq(walk.rows),
        ]
        may_finish, empty = self._room(m)
        last_step = self._addresses(m, walk.last_panel & walk.last_chunk)
        operands = self.weights_ready & self.channels_ready & self.activations_ready
        m.d.comb += [
            step.last.eq(walk.last_chunk & last_step),
            self.step.valid.eq(walk.active & operands & (may_finish | ~step.last)),
            self.busy.eq(walk.busy | ~empty),
            self.waits.weights.eq(walk.active & ~(self.weights_ready & self.channels_ready)),
            self.waits.activations.eq(walk.active & self.weights_ready & self.channels_ready
                                      & ~self.activations_ready),
            self.waits.outputs.eq(walk.active & operands & ~self.step.valid),
            self.tile_done.eq(self.step.valid & last_step),
            self.block_done.eq(self.step.valid & (last_step & walk.last_tile)),
            self.release_activations.eq(self.block_done & (walk.last_panel | (gemm.chunks != 1))),
            self.panel_done.eq(self.block_done & walk.last_chunk),
        ]
        begins = Signal(init=1)
        m.d.comb += step.first.eq(walk.first_chunk & begins)
        with m.If(self.step.valid):
            m.d.sync += begins.eq(last_step)
        return m

    def _addresses(self, m: Module, block_ends: Value) -> Value:
        """Weights go on with every step, activations after the last phase of a word, which the last
        step of a tile ends too. The next tile begins with its panel's first weights again: at 0, or
        behind those of the turn before where they are kept. Returns whether it is the last step."""
        phase, last_phase = (Signal(self.config.phase_width) for _ in range(2))
        with m.Switch(self.gemm.pattern):
            for name in self.config.patterns:
                with m.Case(PATTERNS[name]):
                    m.d.comb += last_phase.eq(self.config.span // SPEEDUP[name] - 1)
        last_step, number = Signal(), Signal(self.config.weight_address)
        m.d.comb += self.step.payload.phase.eq(phase)
        with m.If(self.start | self.tile_done):
            m.d.sync += [number.eq(0), phase.eq(0), last_step.eq(self.gemm.steps == 1)]
        with m.Elif(self.step.valid):
            m.d.sync += [number.eq(number + 1), phase.eq(Mux(phase == last_phase, 0, phase + 1)),
                         last_step.eq(number + 2 == self.gemm.steps)]
        first, following = (Signal(self.config.weight_address) for _ in range(2))
        m.d.comb += following.eq(self.weight_address + 1)
        with m.If(self.start | (self.block_done & (block_ends | ~self.gemm.keep))):
            m.d.sync += [self.weight_address.eq(0), first.eq(0)]
        with m.Elif(self.block_done):
            m.d.sync += [self.weight_address.eq(following), first.eq(following)]
        with m.Elif(self.tile_done):
            m.d.sync += self.weight_address.eq(first)
        with m.Elif(self.step.valid):
            m.d.sync += self.weight_address.eq(following)
        with m.If(self.block_done):
            m.d.sync += self.activation_address.eq(0)
        with m.Elif(self.step.valid & (last_step | (phase == last_phase))):
            m.d.sync += self.activation_address.eq(self.activation_address + 1)
        return last_step

    def _room(self, m: Module) -> tuple[Value, Value]:
        """Whether a tile may be finished, a whole one as far as is known without asking how many
        rows it has; and whether every finished row was taken."""
        rows = self.config.rows
        room, gap = Signal(bits_for(self.slots), init=self.slots), Signal(range(rows))
        may = Signal()
        finish = self.step.valid & self.step.payload.last
        m.d.sync += [
            room.eq(room + self.taken - Mux(finish, self.rows, 0)),
            may.eq(Mux(finish, (rows == 1) & (room >= 2 * rows), ~gap[1:].any() & (room >= rows))),
        ]
        with m.If(finish):
            m.d.sync += gap.eq(rows - 1)
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        return may, room == self.slots
