"""The netlist that synthesis made of a board's top gives the bits of the integer reference."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from zeroskip.fpga.boards import BOARDS, design
from zeroskip.fpga.boardtop import BoardTop
from zeroskip.fpga.build import synthesise
from zeroskip.fpga.netlist import write_model
from zeroskip.hw.system.top import Top
from zeroskip.sim.cases import random_layers
from zeroskip.sim.compiled import DRIVERS, Model, SerialLine, build_once
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie import host
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.runtime.board import Board
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.link import Link

CAMPAIGN = bool(os.environ.get("ZEROSKIP_CAMPAIGN"))

BOARD, DIVISOR = BOARDS["icebreaker"], 4
SYSTEM = design("icebreaker").system
CONFIG = SYSTEM.cores[0]


def generate(folder):
    """The model of the top, as :func:`build_once` wants it."""
    synthesise(BoardTop(BOARD, Top(SYSTEM, divisor=DIVISOR), BOARD.clock_mhz), BOARD, folder)
    write_model(folder, folder / "model.cc")
    with (folder / "model.cc").open("a") as file:
        file.write('\n#include <cxxrtl/capi/cxxrtl_capi.cc>\n#include "cxxrtl_driver.cc"\n')
    runtime = Path(importlib.util.find_spec("pyosys").origin).parent \
        / "share/include/backends/cxxrtl/runtime"
    return ["-O1", "-DNDEBUG", f"-I{runtime}", f"-I{DRIVERS}"]


class Pins:
    """The link's transport, straight at the pins of a model."""

    def __init__(self, model):
        self._line = SerialLine(model, rx="rx", tx="tx", divisor=DIVISOR)
        self._received = b""

    def write(self, data):
        while data:
            sent, received = self._line.run(data, 1000)
            data, self._received = data[sent:], self._received + received

    def read(self, timeout):
        for _ in range(100):
            if self._received:
                break
            self._received = self._line.run(b"", 1000)[1]
        received, self._received = self._received, b""
        return received


@pytest.mark.skipif(not CAMPAIGN, reason="minutes of the C++ compiler; set ZEROSKIP_CAMPAIGN=1")
@pytest.mark.timeout(900)
def test_netlist_gives_the_same_bits():
    rng = np.random.default_rng(1)
    inputs = (rng.integers(-100, 100, (5, 24)) * (rng.random((5, 24)) < 0.6)).astype(np.int16)
    layers = tuple(random_layers(rng, (24, 30, 9), 0.3))
    integers = tuple(layers)
    part = compile_layers(layers, CONFIG).traced()
    expected = GoldenBackend(Program.chain((part,), integers), integers).run(
        part, inputs)
    model = Model(build_once("cxxrtl", "board", [CONFIG.digest(), BOARD.name, __file__], generate))
    model.poke("button", 1)
    model.poke("rx", 1)
    model.tick(300)
    device = Board(Link(Pins(model)), SYSTEM).device("eie")
    result = host.run(device, part, inputs)
    for found, wanted in zip(result.outputs, expected.outputs, strict=True):
        np.testing.assert_array_equal(found, wanted)
