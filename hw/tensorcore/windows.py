"""From stored words to what the lanes of a column can reach."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.tensorcore.config import GROUP, TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import Pattern, activation_word_layout, phase, window_layout


class Windows(wiring.Component):
    """The windows of one column's lanes. Combinational.

    An activation word holds ``span`` operands per multiplier. Of a word for 1:4, a 2:4 or
    dense step works on one half, and both multipliers of a lane see the same group.

    Members
    -------
    pattern : In(Pattern)
    phase : In
    word : In(``activation_word_layout``)
    windows : Out
        One per lane.
    """

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "pattern": In(Pattern), "phase": In(phase(config)),
            "word": In(activation_word_layout(config)),
            "windows": Out(data.ArrayLayout(window_layout(config), config.lanes))})

    def elaborate(self, platform):
        m = Module()
        if self.config.span <= 2:
            m.d.comb += self.windows.as_value().eq(self.word.as_value())
            return m

        bits, word = 8 * GROUP, self.word.as_value()
        groups = [word[at:at + bits] for at in range(0, len(word), bits)]
        half = Mux(self._second_half(), Cat(groups[self.config.lanes:]),
                   Cat(groups[:self.config.lanes]))
        for i in range(self.config.lanes):
            both = half.word_select(i, bits)
            m.d.comb += self.windows[i].as_value().eq(Mux(
                self.pattern == Pattern.N1M4, Cat(groups[2 * i], groups[2 * i + 1]),
                Cat(both, both)))
        return m

    def _second_half(self) -> Value:
        return Mux(self.pattern == Pattern.DENSE, self.phase[1], self.phase[0])
