"""Operand buffers in two halves: one is filled from a stream while the other is computed on."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.memory import BlockRAM
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import (
    CHANNEL,
    COLUMN_BITS,
    activation_word,
    gemm,
    weight_word,
)
from zeroskip.hw.tensorcore.walk import Walk


class Halves(wiring.Component):
    """Which half is filled and which is read.

    Members
    -------
    filled : In(1)
        The half being filled is complete.
    released : In(1)
        The half being read is not needed any more.
    write, read : Out(1)
        Number of the half being filled, and read.
    full : Out(1)
        Both are complete: nothing may be written.
    ready : Out(1)
        The half being read is complete.
    """

    filled: In(1)
    released: In(1)
    write: Out(1)
    read: Out(1)
    full: Out(1)
    ready: Out(1)

    def elaborate(self, platform):
        m = Module()
        count = Signal(2)
        m.d.sync += [
            count.eq(count + self.filled - self.released),
            self.write.eq(self.write ^ self.filled),
            self.read.eq(self.read ^ self.released),
        ]
        m.d.comb += [self.full.eq(count == 2), self.ready.eq(count != 0)]
        return m


class WeightBuffer(wiring.Component):
    """The weights of a panel of rows, and their metadata.

    ``i`` brings, for each chunk of the :class:`Walk`, the words of one row after another; rows
    past the last of A are not sent. Throughput is one word a cycle in, and a word of every row
    out, ``LATENCY`` cycles after its address.

    Members
    -------
    gemm : In(``gemm``), start : In(1)
    i : In(stream of ``weight_word``)
    ready : Out(1)
        The panel is complete.
    address : In
        Number of the step.
    release : In(1)
        The panel is not needed after this cycle's read.
    o : Out
        A ``weight_word`` per row.
    """

    LATENCY = BlockRAM.LATENCY

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "gemm": In(gemm(config)),
            "start": In(1),
            "i": In(stream.Signature(weight_word(config))),
            "ready": Out(1),
            "address": In(config.weight_address),
            "release": In(1),
            "o": Out(data.ArrayLayout(weight_word(config), config.rows)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = Walk(config)
        m.submodules.halves = halves = Halves()
        row, word = Signal(range(config.rows)), Signal(config.weight_address)
        take, filled = Signal(), Signal()
        m.d.comb += [
            walk.gemm.eq(self.gemm), walk.start.eq(self.start), walk.next.eq(filled),
            halves.filled.eq(filled), halves.released.eq(self.release),
            self.ready.eq(halves.ready),
            self.i.ready.eq(walk.active & ~halves.full),
            take.eq(self.i.valid & self.i.ready),
        ]
        with m.If(take):
            m.d.sync += word.eq(word + 1)
            with m.If(word + 1 == self.gemm.steps):
                m.d.sync += [word.eq(0), row.eq(row + 1)]
                with m.If(row + 1 == walk.rows):
                    m.d.comb += filled.eq(1)
                    m.d.sync += row.eq(0)

        for r in range(config.rows):
            m.submodules[f"memory_{r}"] = memory = BlockRAM(
                weight_word(config), depth=2 << config.weight_address)
            m.d.comb += [
                memory.write.en.eq(take & (row == r)),
                memory.write.address.eq(Cat(word, halves.write)),
                memory.write.data.eq(self.i.payload),
                memory.en.eq(1),
                memory.address.eq(Cat(self.address, halves.read)),
                self.o[r].eq(memory.data),
            ]
        return m


class ActivationBuffer(wiring.Component):
    """A block of columns of B.

    ``i`` brings, for each block (or each chunk, where K is cut), the words of one column after
    another; columns past the last of B are not sent. A tile's columns can be used as soon as
    they are there, before the block is complete. Throughput and latency as of
    :class:`WeightBuffer`.

    Members
    -------
    gemm : In(``gemm``), start : In(1)
    i : In(stream of ``activation_word``)
    tile : In
        Number of the tile in the block.
    ready : Out(1)
        Its columns are there.
    address : In
    release : In(1)
        The block is not needed after this cycle's read; ``tile`` is its last.
    o : Out
        An ``activation_word`` per column.
    """

    LATENCY = BlockRAM.LATENCY

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "gemm": In(gemm(config)),
            "start": In(1),
            "i": In(stream.Signature(activation_word(config))),
            "tile": In(config.activation_address),
            "ready": Out(1),
            "address": In(config.activation_address),
            "release": In(1),
            "o": Out(data.ArrayLayout(activation_word(config), config.columns)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = Walk(config)
        m.submodules.halves = halves = Halves()
        # Where K is not cut, a block serves all panels of rows: one turn of the walk.
        m.d.comb += walk.gemm.eq(self.gemm)
        with m.If(self.gemm.chunks == 1):
            m.d.comb += walk.gemm.rows.eq(1)

        column, done = Signal(range(config.columns)), Signal(COLUMN_BITS)
        base, word = (Signal(config.activation_address) for _ in range(2))
        address = Signal(config.activation_address)
        take, placed, filled = Signal(), Signal(), Signal()
        m.d.comb += [
            walk.start.eq(self.start), walk.next.eq(filled),
            halves.filled.eq(filled), halves.released.eq(self.release),
            self.i.ready.eq(walk.active & ~halves.full),
            take.eq(self.i.valid & self.i.ready),
        ]
        with m.If(take):
            m.d.sync += word.eq(word + 1)
            with m.If(word + 1 == self.gemm.words):
                m.d.sync += [word.eq(0), column.eq(column + 1), done.eq(done + 1)]
                m.d.comb += [filled.eq(done + 1 == walk.columns),
                             placed.eq(filled | (column == config.columns - 1))]
                with m.If(placed):
                    m.d.sync += [column.eq(0), base.eq(base + self.gemm.words)]
                with m.If(filled):
                    m.d.sync += [base.eq(0), done.eq(0)]
        m.d.comb += address.eq(base + word)

        for c in range(config.columns):
            m.submodules[f"memory_{c}"] = memory = BlockRAM(
                activation_word(config), depth=2 << config.activation_address)
            m.d.comb += [
                memory.write.en.eq(take & (column == c)),
                memory.write.address.eq(Cat(address, halves.write)),
                memory.write.data.eq(self.i.payload),
                memory.en.eq(1),
                memory.address.eq(Cat(self.address, halves.read)),
                self.o[c].eq(memory.data),
            ]

        # Tiles that were placed and not yet released, in both halves.
        placed_tiles = Signal(config.activation_address + 2)
        m.d.sync += placed_tiles.eq(
            placed_tiles + placed - Mux(self.release, self.tile + 1, 0))
        m.d.comb += self.ready.eq(placed_tiles > self.tile)
        return m


class ChannelBuffer(wiring.Component):
    """Bias, multiplier and shift of each row of a panel.

    ``i`` brings them for one row after another, panel by panel, in each block again. They are
    read when a tile is finished, some time after its panel's last step; ``claim`` and
    ``release`` are that far apart.

    Members
    -------
    gemm : In(``gemm``), start : In(1)
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

    LATENCY = BlockRAM.LATENCY

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "gemm": In(gemm(config)),
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
        m.submodules.claims = claims = Halves()
        m.submodules.halves = halves = Halves()
        # One record a row, however K is cut.
        m.d.comb += [walk.gemm.eq(self.gemm), walk.gemm.chunks.eq(1)]

        row = Signal(range(config.rows))
        take, filled = Signal(), Signal()
        m.d.comb += [
            walk.start.eq(self.start), walk.next.eq(filled),
            claims.filled.eq(filled), claims.released.eq(self.claim),
            halves.filled.eq(filled), halves.released.eq(self.release),
            self.ready.eq(claims.ready),
            self.i.ready.eq(walk.active & ~halves.full),
            take.eq(self.i.valid & self.i.ready),
            filled.eq(take & (row + 1 == walk.rows)),
        ]
        with m.If(take):
            m.d.sync += row.eq(Mux(filled, 0, row + 1))

        m.submodules.memory = memory = BlockRAM(
            CHANNEL, depth=2 << bits_for(config.rows - 1))
        m.d.comb += [
            memory.write.en.eq(take),
            memory.write.address.eq(Cat(row, halves.write)),
            memory.write.data.eq(self.i.payload),
            memory.en.eq(1),
            memory.address.eq(Cat(self.address, halves.read)),
            self.o.eq(memory.data),
        ]
        return m
