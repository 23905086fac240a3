"""The dot product: multiplier pairs and an adder tree."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.lane import Lane
from zeroskip.hw.tensorcore.layouts import window_layout


class DotProduct(wiring.Component):
    """The sum of ``products`` products: one row's weights and one column's operands.

    Latency is :attr:`latency` cycles, throughput one a cycle.

    Members
    -------
    weights : In
        One per multiplier.
    select : In
        Metadata, two bits per multiplier; only with an operand select.
    windows : In
        A ``window`` per lane.
    int4 : In(1)
        Only where the configuration has it.
    sum : Out
    """

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "weights": In(data.ArrayLayout(signed(8), config.products)),
            **({"select": In(data.ArrayLayout(2, config.products))} if config.sparse else {}),
            "windows": In(data.ArrayLayout(window_layout(config), config.lanes)),
            **({"int4": In(1)} if config.int4 else {}),
            "sum": Out(signed(17 + exact_log2(config.lanes))),
        })

    @staticmethod
    def latency(config: TensorCoreConfig) -> int:
        """Cycles from the operands to the sum."""
        return Lane.LATENCY + exact_log2(config.lanes)

    def elaborate(self, platform):
        m = Module()
        sums = []
        for i in range(self.config.lanes):
            m.submodules[f"lane_{i}"] = lane = Lane(self.config)
            for slot in range(2):
                m.d.comb += lane.weights[slot].eq(self.weights[2 * i + slot])
                if self.config.sparse:
                    m.d.comb += lane.select[slot].eq(self.select[2 * i + slot])
            m.d.comb += lane.operands.eq(self.windows[i])
            if self.config.int4:
                m.d.comb += lane.int4.eq(self.int4)
            sums.append(lane.sum)
        while len(sums) > 1:
            level = []
            for a, b in zip(sums[::2], sums[1::2], strict=True):
                level.append(Signal(signed(len(a) + 1)))
                m.d.sync += level[-1].eq(a + b)
            sums = level
        m.d.comb += self.sum.eq(sums[0])
        return m
