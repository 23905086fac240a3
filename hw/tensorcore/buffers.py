"""Operand buffers in two halves: one is filled from a stream while the other is computed on."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from zeroskip.hw.memory import BlockRAM
from zeroskip.hw.stream import delay
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import (
    CHANNEL,
    gemm_layout,
    panel_layout,
    strip_layout,
)
from zeroskip.hw.tensorcore.walk import Walk


class Ring(wiring.Component):
    """Which part of a buffer is filled and which is read, in turn.

    Parameters
    ----------
    parts : int
        A power of two.

    Members
    -------
    filled : In(1)
        The part being filled is complete.
    released : In(1)
        The part being read is not needed any more.
    stay : In(1)
        All that is filled and read is one part, whatever is complete and released of it.
    write, read : Out
        Number of the part being filled, and read.
    full : Out(1)
        All are complete: nothing may be written.
    ready : Out(1)
        The part being read is complete.
    """

    def __init__(self, parts: int):
        self.parts = parts
        super().__init__({
            "filled": In(1),
            "released": In(1),
            "stay": In(1),
            "write": Out(exact_log2(parts)),
            "read": Out(exact_log2(parts)),
            "full": Out(1),
            "ready": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        count = Signal(bits_for(self.parts))
        m.d.sync += [
            count.eq(count + self.filled - self.released),
            self.write.eq(self.write + (self.filled & ~self.stay)),
            self.read.eq(self.read + (self.released & ~self.stay)),
        ]
        # What is asked of the count is known when the cycle begins.
        m.d.sync += [
            self.full.eq(Mux(self.filled & ~self.released, count >= self.parts - 1,
                             ~self.released & self.full)),
            self.ready.eq(Mux(self.released & ~self.filled, count > 1, self.filled | self.ready)),
        ]
        return m


_DEEPEST = 2048
"""Words of a bank. A memory that takes several blocks for its depth chooses between them in front
of its output register, which is then not the one that blocks have inside."""


def _memory(m: Module, buffer: wiring.Component, ring: Ring, take: Value, address: Value):
    """The memory of a buffer: ``take`` writes its stream's item at ``address`` of the part that
    is filled; its own address reads in the part that is read. Many blocks stand far apart: there is
    a register on every way to them and from them. A bank is a part, or all of them."""
    depth = 1 << len(buffer.address)
    banks = ring.parts if ring.parts * depth > _DEEPEST else 1
    into, out = Cat(address, ring.write), Cat(buffer.address, ring.read)
    words = []
    for number in range(banks):
        memory = BlockRAM(buffer.o.shape(), depth=ring.parts * depth // banks)
        m.submodules[f"memory_{number}"] = memory
        mine = ring.write == number if banks > 1 else 1
        m.d.comb += [
            memory.write.en.eq(delay(m, take & mine, 1)),
            memory.write.address.eq(delay(m, into, 1)),
            memory.write.data.eq(delay(m, buffer.i.payload, 1)),
            memory.en.eq(1),
            memory.address.eq(delay(m, out, 1)),
        ]
        words.append(Value.cast(memory.data))
    chosen = delay(m, ring.read, 1 + BlockRAM.LATENCY) if banks > 1 else 0
    m.d.sync += Value.cast(buffer.o).eq(Array(words)[chosen])


_LATENCY = 1 + BlockRAM.LATENCY + 1
"""Of a buffer, from an address to its word."""


class WeightBuffer(wiring.Component):
    """The weights of a panel of rows, and their metadata.

    ``i`` brings, chunk by chunk of the :class:`Walk`, what all rows of the panel multiply in one
    step after another; rows past the last of A may be anything. With ``keep`` that is the first
    block alone: its chunks lie one behind another in one half, and stay. Throughput is one step's
    weights a cycle, in and out; out they come ``LATENCY`` cycles after their address.

    Members
    -------
    gemm : In(``gemm_layout``), start : In(1)
    i : In(stream of ``panel_layout``)
    ready : Out(1)
        The chunk is complete.
    address : In
        Number of the step in the chunk, or in the block with ``keep``.
    release : In(1)
        The chunk is not needed after this cycle's read, in this block.
    o : Out(``panel_layout``)
    """

    LATENCY = _LATENCY

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "gemm": In(gemm_layout(config)),
            "start": In(1),
            "i": In(stream.Signature(panel_layout(config))),
            "ready": Out(1),
            "address": In(config.weight_address),
            "release": In(1),
            "o": Out(panel_layout(config)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = Walk(self.config)
        m.submodules.halves = halves = Ring(2)
        address, word = (Signal(self.config.weight_address) for _ in range(2))
        last, take, filled, kept = (Signal() for _ in range(4))
        m.d.comb += walk.gemm.eq(self.gemm)
        with m.If(self.gemm.keep):      # one block is all there is to load
            m.d.comb += walk.gemm.columns.eq(self.gemm.block)
        m.d.sync += kept.eq(self.gemm.keep & ~walk.busy)
        m.d.comb += [
            walk.start.eq(self.start), walk.next.eq(filled), halves.stay.eq(self.gemm.keep),
            halves.filled.eq(filled), halves.released.eq(self.release & halves.ready),
            self.ready.eq(halves.ready | kept),
            self.i.ready.eq(walk.active & ~halves.full),
            take.eq(self.i.valid & self.i.ready),
            filled.eq(take & last),
        ]
        with m.If(self.start | filled):
            m.d.sync += [word.eq(0), last.eq(self.gemm.steps == 1)]
        with m.Elif(take):
            m.d.sync += [word.eq(word + 1), last.eq(word + 2 == self.gemm.steps)]
        with m.If(self.start | (filled & ~self.gemm.keep)):
            m.d.sync += address.eq(0)
        with m.Elif(take):
            m.d.sync += address.eq(address + 1)

        _memory(m, self, halves, take, address)
        return m


class ActivationBuffer(wiring.Component):
    """A block of columns of B, cut into strips as wide as the tile.

    ``i`` brings, block by block (or chunk by chunk, where K is cut), a word of all columns of
    a strip after another; columns past the last of B may be anything. A strip can be used as
    soon as it is there, before the block is complete. Throughput and latency as of
    :class:`WeightBuffer`.

    Members
    -------
    gemm : In(``gemm_layout``), start : In(1)
    i : In(stream of ``strip_layout``)
    ready : Out(1)
        The strip is there.
    address : In
    tile_done : In(1)
        From now on the next strip is wanted.
    block_done : In(1)
        And that is the first of a block: of the same one, unless it is released.
    release : In(1)
        The block is not needed after this cycle's read.
    o : Out(``strip_layout``)
    """

    LATENCY = _LATENCY

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "gemm": In(gemm_layout(config)),
            "start": In(1),
            "i": In(stream.Signature(strip_layout(config))),
            "ready": Out(1),
            "address": In(config.activation_address),
            "tile_done": In(1),
            "block_done": In(1),
            "release": In(1),
            "o": Out(strip_layout(config)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = Walk(config)
        m.submodules.halves = halves = Ring(2)
        # Where K is not cut, a block serves all panels of rows: one turn of the walk.
        m.d.comb += walk.gemm.eq(self.gemm)
        with m.If(self.gemm.chunks == 1):
            m.d.comb += walk.gemm.rows.eq(1)

        address, word = (Signal(config.activation_address) for _ in range(2))
        last_word, take, placed, filled = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            walk.start.eq(self.start), walk.tile.eq(placed), walk.next.eq(filled),
            halves.filled.eq(filled), halves.released.eq(self.release),
            self.i.ready.eq(walk.active & ~halves.full),
            take.eq(self.i.valid & self.i.ready),
            placed.eq(take & last_word),
            filled.eq(take & (last_word & walk.last_tile)),
        ]
        with m.If(filled):
            m.d.sync += address.eq(0)
        with m.Elif(take):
            m.d.sync += address.eq(address + 1)
        with m.If(self.start | placed):
            m.d.sync += [word.eq(0), last_word.eq(self.gemm.words == 1)]
        with m.Elif(take):
            m.d.sync += [word.eq(word + 1), last_word.eq(word + 2 == self.gemm.words)]

        _memory(m, self, halves, take, address)

        # Strips that were placed and not yet released, in both halves; the number of the one that
        # is wanted: if it is not among them, it is the next one.
        strips = Signal(config.activation_address + 2)
        tile = Signal(config.activation_address)
        m.d.sync += [
            strips.eq(strips + placed - Mux(self.release, tile + 1, 0)),
            self.ready.eq(placed | Mux(self.tile_done, (strips > tile + 1)
                                       | (self.block_done & ~self.release), strips > tile)),
        ]
        with m.If(self.block_done):
            m.d.sync += tile.eq(0)
        with m.Elif(self.tile_done):
            m.d.sync += tile.eq(tile + 1)
        return m


class ChannelBuffer(wiring.Component):
    """Bias, multiplier and shift of each row of a panel.

    ``i`` brings them for one row after another, panel by panel, in each block again. They are
    read when a tile is finished, some time after its panel's last step; ``claim`` and
    ``release`` are that far apart, and short panels follow one another faster than that.

    Members
    -------
    gemm : In(``gemm_layout``), start : In(1)
    i : In(stream of ``CHANNEL``)
    ready : Out(1)
        The panel's are complete.
    claim : In(1)
        The panel's last step: ``ready`` is about the next panel from now on.
    address : In
        A row of the panel that is read.
    release : In(1)
        Nothing of that panel is read after this cycle.
    o : Out(``CHANNEL``)
        ``LATENCY`` cycles after its address.
    """

    LATENCY = _LATENCY
    PANELS = 4

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "gemm": In(gemm_layout(config)),
            "start": In(1),
            "i": In(stream.Signature(CHANNEL)),
            "ready": Out(1),
            "claim": In(1),
            "address": In(range(config.rows)),
            "release": In(1),
            "o": Out(CHANNEL),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = Walk(config)
        m.submodules.claims = claims = Ring(self.PANELS)
        m.submodules.panels = panels = Ring(self.PANELS)
        # One record a row, however K is cut.
        m.d.comb += [walk.gemm.eq(self.gemm), walk.gemm.chunks.eq(1)]

        row = Signal(range(config.rows))
        take, filled = Signal(), Signal()
        m.d.comb += [
            walk.start.eq(self.start), walk.next.eq(filled),
            claims.filled.eq(filled), claims.released.eq(self.claim),
            panels.filled.eq(filled), panels.released.eq(self.release),
            self.ready.eq(claims.ready),
            self.i.ready.eq(walk.active & ~panels.full),
            take.eq(self.i.valid & self.i.ready),
            filled.eq(take & (row + 1 == walk.rows)),
        ]
        with m.If(take):
            m.d.sync += row.eq(Mux(filled, 0, row + 1))

        _memory(m, self, panels, take, row)
        return m
