"""Names by which ``fpga`` finds something in a netlist: in a real one they find it."""

import json
import re
from dataclasses import replace

import pytest

from zeroskip.fpga import floor
from zeroskip.fpga.blocks import BORDERS, CORES, WEIGHTS
from zeroskip.fpga.boards import BOARDS
from zeroskip.fpga.boardtop import BoardTop
from zeroskip.fpga.families.ecp5 import ECP5
from zeroskip.fpga.flow import synthesise
from zeroskip.fpga.shell import Shell
from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.netlist.emit import rtlil, yosys
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.system.top import Top
from zeroskip.hw.tensorcore.config import TensorCoreConfig

ARRAY = EIEConfig(pes=2, queue_depth=2, runahead=2, weight_rows=64, pointers=64, act_depth=64,
                  bias_depth=64, codebooks=1, counters=False)
CORE = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2, activation_words=2)
MEMORIES = {"activation.biases", *(f"pe_0.{each}" for each in (
    "registers.role_0", "registers.role_1", "spmat.half_0", "spmat.half_1"))}
"""Block RAMs of a cluster of ``ARRAY``; the others are so small that they are made of LUTs."""


def found(tmp_path, component, name, *selections):
    """Asserts of each selection how many modules, or cells, Yosys finds by it."""
    (tmp_path / "design.il").write_text(rtlil(component, name))
    yosys(f"read_rtlil {tmp_path / 'design.il'}", f"hierarchy -top {name}", "proc",
          *(f"select -assert-{what} {count} {pattern}" for what, count, pattern in selections))


def test_modules_that_keep_their_borders(tmp_path):
    system = SystemConfig((ARRAY, CORE, replace(ARRAY, queue_depth=3)))
    found(tmp_path, BoardTop(BOARDS["ulx3s-85f"], Top(system, divisor=8), 50), "board",
          ("mod-count", 3, CORES), *(("mod-count", 1, each) for each in BORDERS.split()))
    found(tmp_path, Shell(EIE(ARRAY)), "shell", ("mod-count", 1, "shell.component"),
          ("mod-count", 1, BORDERS))


def test_weight_memories_of_the_ice40(tmp_path):
    """In the flat design, where Yosys maps memories."""
    (tmp_path / "design.il").write_text(rtlil(EIE(ARRAY), "board"))
    yosys(f"read_rtlil {tmp_path / 'design.il'}", "hierarchy -top board", "proc", "flatten",
          "memory_collect", f"select -assert-count 4 {WEIGHTS} t:$mem_v2 %i")


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """The module that nextpnr gets of an array of two clusters on an ECP5."""
    folder = tmp_path_factory.mktemp("board")
    board, system = BOARDS["ulx3s-85f"], SystemConfig((ARRAY,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ECP5, "resets", replace(ECP5.resets, least=100))    # the array is small
        synthesise(BoardTop(board, Top(system, divisor=8), 50), board.chip, folder, top="board",
                   borders=f"{CORES} {BORDERS}")
    return json.loads((folder / "design.json").read_text())["modules"]["board"]


def of_type(module, kind):
    """The cells of a type, by name."""
    return {name: cell for name, cell in module["cells"].items() if cell["type"] == kind}


@pytest.mark.timeout(600)
def test_memories_and_multipliers_of_each_cluster_are_placed(flow):
    for kind, names in (("DP16KD", MEMORIES), ("MULT18X18D", {"pe_0.arithmetic"})):
        placed = [name for name, cell in of_type(flow, kind).items() if "BEL" in cell["attributes"]]
        assert len(placed) == 2 * len(names)
        assert {name for name in names for cluster in range(2)
                if any(f"eie.core.cluster_{cluster}.{name}." in each for each in placed)} == names


def test_their_registers_are_packed_into_them(flow):
    memories = [cell["parameters"] for name, cell in of_type(flow, "DP16KD").items()
                if "cluster" in name]
    assert {each["REGMODE_A"] for each in memories} == {"OUTREG"}
    multipliers = [cell["parameters"] for cell in of_type(flow, "MULT18X18D").values()]
    for option in ("REG_INPUTA_CLK", "REG_INPUTB_CLK", "REG_OUTPUT_CLK"):
        assert {each[option] for each in multipliers} == {"CLK0"}


def test_the_array_is_reset_by_a_buffer_and_each_clusters_logic_by_a_copy(flow):
    cells = flow["cells"]
    drivers = {bits[0]: name for name, cell in of_type(flow, "TRELLIS_FF").items()
               for bits in [cell["connections"]["Q"]]}
    (buffer,) = [name for name, cell in of_type(flow, "DCCA").items()
                 if drivers.get(cell["connections"]["CLKI"][0], "").startswith(
                     "top.accelerator.eie.core_reset_TRELLIS_FF")]
    for cluster in range(2):
        (made,) = cells[f"{buffer}_cluster_{cluster}"]["connections"]["Q"]
        readers = [name for name, cell in cells.items() for port, bits in
                   cell["connections"].items()
                   if made in bits and cell["port_directions"][port] == "input"]
        assert readers
        assert all(f".cluster_{cluster}." in name for name in readers)


def test_blocks_of_the_floor_plan(flow):
    scopes = {name for name, cell in flow["cells"].items() if cell["type"] == "$scopeinfo"}
    shown = set(floor.blocks([floor._scope(name, scopes) for name in flow["cells"]]).values())
    assert "endpoint" in shown
    assert {name[:len("eie.core.cluster_0")] for name in shown if "cluster" in name} == {
        "eie.core.cluster_0", "eie.core.cluster_1"}


def test_cells_by_the_name_of_their_signal(flow):
    """What stands before the suffix is a signal or, of one without a name, its instance."""
    def named(name):
        return re.sub(r"\.?\$.*", "", name)

    signal, instances = BOARDS["ulx3s-85f"].chip.signal, of_type(flow, "$scopeinfo")
    known = {named(name) for name in [*flow["netnames"], *instances]}
    for kind in ("TRELLIS_FF", "LUT4", "CCU2C", "PFUMX", "L6MUX21", "MULT18X18D"):
        assert {named(signal(name)) for name in of_type(flow, kind)
                if not name.startswith("reset_")} <= known
    assert {signal(name).removesuffix(".memory")
            for name in of_type(flow, "DP16KD")} <= {*instances}
