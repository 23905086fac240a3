"""The tile: a dot product and an accumulator for every pair of a row and a column."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import delay, flow
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.dot import DotProduct
from zeroskip.hw.tensorcore.layouts import (
    Pattern,
    panel_layout,
    step_layout,
    strip_layout,
    tile_row_layout,
)
from zeroskip.hw.tensorcore.windows import Windows


class Tile(wiring.Component):
    """``rows`` x ``columns`` accumulators that stay where they are while K passes by.

    Each step adds a dot product to each. With the last one of an accumulation the sums move
    on to a second set of registers, from which the rows leave, the lowest first, one a cycle
    from ``latency`` cycles after the step on; the next accumulation is under way meanwhile.
    Two ``last`` steps are at least ``rows`` cycles apart. Sums are exact modulo 2^32.

    Members
    -------
    pattern : In(Pattern), int4 : In(1)
        Constant while steps are on their way.
    step : In(flow of ``step_layout``)
    weights : In(``panel_layout``)
    activations : In(``strip_layout``)
    row : Out(``tile_row_layout``)
    """

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "pattern": In(Pattern),
            "int4": In(1),
            "step": In(flow(step_layout(config))),
            "weights": In(panel_layout(config)),
            "activations": In(strip_layout(config)),
            "row": Out(tile_row_layout(config)),
        })

    @staticmethod
    def latency(config: TensorCoreConfig) -> int:
        """Cycles from a last step to its first row."""
        return DotProduct.latency(config) + 1

    def elaborate(self, platform):
        m = Module()
        config = self.config
        windows = [self._windows(m, c) for c in range(config.columns)]
        sums = [[self._dot(m, r, c, windows[c]) for c in range(config.columns)]
                for r in range(config.rows)]

        under_way = DotProduct.latency(config)
        valid, first, last = (delay(m, signal, under_way) for signal in (
            self.step.valid, self.step.payload.first, self.step.payload.last))
        finished = [Signal(tile_row_layout(config), name=f"finished_{r}")
                    for r in range(config.rows)]
        for r in range(config.rows):
            if r + 1 < config.rows:
                m.d.sync += finished[r].eq(finished[r + 1])
            for c in range(config.columns):
                accumulator, total = Signal(signed(32)), Signal(signed(32))
                m.d.comb += total.eq(Mux(first, 0, accumulator) + sums[r][c])
                with m.If(valid):
                    m.d.sync += accumulator.eq(total)
                    with m.If(last):
                        m.d.sync += finished[r][c].eq(total)
        m.d.comb += self.row.eq(finished[0])
        return m

    def _windows(self, m: Module, c: int) -> Value:
        m.submodules[f"windows_{c}"] = windows = Windows(self.config)
        m.d.comb += [
            windows.pattern.eq(self.pattern),
            windows.phase.eq(self.step.payload.phase),
            windows.word.eq(self.activations[c]),
        ]
        return windows.windows

    def _dot(self, m: Module, r: int, c: int, windows: Value) -> Value:
        m.submodules[f"dot_{r}_{c}"] = dot = DotProduct(self.config)
        m.d.comb += [dot.weights.eq(self.weights[r].values), dot.windows.eq(windows)]
        if self.config.sparse:
            m.d.comb += dot.select.eq(self.weights[r].metadata)
        if self.config.int4:
            m.d.comb += dot.int4.eq(self.int4)
        return dot.sum
