"""The order in which a whole GEMM is walked."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import CHUNK_BITS, COLUMN_BITS, ROW_BITS, gemm_layout


class Walk(wiring.Component):
    """Blocks of columns; for each, panels of rows; for each, chunks of K; in each, tiles.

    What loads and what computes each has a walk of its own through the same order, and so
    needs no word from the others about where it is. Edges are here: the last panel has the
    rows that are left, the last block the columns. All that is said of a turn comes from
    registers, for the walk is a turn ahead of what it says; behind a turn of a single cycle, there
    is none for a cycle.

    Members
    -------
    gemm : In(``gemm_layout``)
        Constant from ``start`` on.
    start : In(1)
        The first chunk of the first panel is there two cycles later.
    next : In(1)
        Goes on to the next chunk, and to its first tile.
    tile : In(1)
        Goes on to the next tile.
    busy, active : Out(1)
        Not yet past the end; there is a turn.
    rows : Out
        Rows of this panel.
    columns : Out
        Columns of this block.
    first_chunk, last_chunk, last_panel : Out(1)
        Of this panel; of this block.
    last_tile : Out(1)
        Of this block.
    """

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "gemm": In(gemm_layout(config)),
            "start": In(1),
            "next": In(1),
            "tile": In(1),
            "busy": Out(1),
            "active": Out(1),
            "rows": Out(bits_for(config.rows)),
            "columns": Out(COLUMN_BITS),
            "first_chunk": Out(1),
            "last_chunk": Out(1),
            "last_panel": Out(1),
            "last_tile": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, gemm = self.config, self.gemm
        # The turn that follows, if there is one; a cycle after it was taken, the next.
        rows, columns, chunk = Signal(ROW_BITS), Signal(COLUMN_BITS), Signal(CHUNK_BITS)
        more, taken, narrow, uncut, last_chunk, single = (Signal() for _ in range(6))
        last_block, last_panel = columns <= gemm.block, rows <= config.rows
        m.d.comb += self.busy.eq(more | self.active)
        m.d.sync += [taken.eq(0), narrow.eq(gemm.block <= config.columns),
                     uncut.eq(gemm.chunks == 1)]
        with m.If(self.next | ~self.active):
            m.d.sync += [
                self.active.eq(more & ~taken),
                taken.eq(more & ~taken),
                self.rows.eq(Mux(last_panel, rows, config.rows)),
                self.columns.eq(Mux(last_block, columns, gemm.block)),
                self.first_chunk.eq(chunk == 0),
                self.last_chunk.eq(last_chunk),
                self.last_panel.eq(last_panel),
                single.eq(Mux(last_block, columns <= config.columns, narrow)),
            ]
        with m.If(self.start):
            m.d.sync += [more.eq(1), rows.eq(gemm.rows), columns.eq(gemm.columns), chunk.eq(0),
                         last_chunk.eq(gemm.chunks == 1)]
        with m.Elif(taken):
            m.d.sync += [chunk.eq(Mux(last_chunk, 0, chunk + 1)),
                         last_chunk.eq(Mux(last_chunk, uncut, chunk + 2 == gemm.chunks))]
            with m.If(last_chunk):
                m.d.sync += rows.eq(Mux(last_panel, gemm.rows, rows - config.rows))
                with m.If(last_panel):
                    m.d.sync += [columns.eq(columns - gemm.block), more.eq(~last_block)]

        # The first tile, or the one whose columns end the block.
        first, ends, column = Signal(), Signal(), Signal(COLUMN_BITS)
        m.d.comb += self.last_tile.eq(Mux(first, single, ends))
        with m.If(self.start | self.next):
            m.d.sync += [first.eq(1), column.eq(config.columns)]
        with m.Elif(self.tile):
            m.d.sync += [first.eq(0), column.eq(column + config.columns),
                         ends.eq(column + config.columns >= self.columns)]
        return m
