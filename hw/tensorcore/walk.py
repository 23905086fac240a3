"""The order in which a whole GEMM is walked."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import CHUNK_BITS, COLUMN_BITS, ROW_BITS, gemm


class Walk(wiring.Component):
    """Blocks of columns; for each, panels of rows; for each, chunks of K.

    What loads and what computes each has a walk of its own through the same order, and so
    needs no word from the others about where it is. Edges are here: the last panel has the
    rows that are left, the last block the columns.

    Members
    -------
    gemm : In(``gemm``)
        Constant from ``start`` on.
    start : In(1)
        Goes to the first chunk of the first panel.
    next : In(1)
        Goes on.
    active : Out(1)
        Not yet past the end.
    rows : Out
        Rows of this panel.
    columns : Out
        Columns of this block.
    first_chunk, last_chunk, last_panel : Out(1)
        Of this panel; of this block.
    """

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "gemm": In(gemm(config)),
            "start": In(1),
            "next": In(1),
            "active": Out(1),
            "rows": Out(bits_for(config.rows)),
            "columns": Out(COLUMN_BITS),
            "first_chunk": Out(1),
            "last_chunk": Out(1),
            "last_panel": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        rows, columns = Signal(ROW_BITS), Signal(COLUMN_BITS)
        chunk = Signal(CHUNK_BITS)
        last_block = columns <= self.gemm.block
        m.d.comb += [
            self.rows.eq(Mux(self.last_panel, rows, self.config.rows)),
            self.columns.eq(Mux(last_block, columns, self.gemm.block)),
            self.first_chunk.eq(chunk == 0),
            self.last_chunk.eq(chunk + 1 == self.gemm.chunks),
            self.last_panel.eq(rows <= self.config.rows),
        ]
        with m.If(self.start):
            m.d.sync += [self.active.eq(1), rows.eq(self.gemm.rows),
                         columns.eq(self.gemm.columns), chunk.eq(0)]
        with m.Elif(self.next):
            m.d.sync += chunk.eq(chunk + 1)
            with m.If(self.last_chunk):
                m.d.sync += [chunk.eq(0), rows.eq(rows - self.config.rows)]
                with m.If(self.last_panel):
                    m.d.sync += [rows.eq(self.gemm.rows), columns.eq(columns - self.gemm.block),
                                 self.active.eq(~last_block)]
        return m
