"""``verilog``: the files, their ports and waivers; ``doctor``."""

import json
import re
import shutil
import subprocess

import pytest

from zeroskip.fpga.family import Tool
from zeroskip.hw.eie.config import CONFIGS as ARRAYS
from zeroskip.hw.system.accelerator import register_map
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.tensorcore.config import CONFIGS
from zeroskip.sw.cli import gateware


@pytest.fixture
def core(cli, tmp_path):
    """The folder with the files of tc-8, and what the command said."""
    done = cli("verilog", "tensorcore", "-o", tmp_path / "tc.v", "--config", "tc-8", "--json")
    assert (done.code, done.stderr) == (0, "")
    return tmp_path, done.json


def test_verilog_of_the_tensor_core(core):
    folder, described = core
    assert sorted(path.name for path in folder.iterdir()) == ["tc.json", "tc.v", "tc.vlt"]
    assert json.loads((folder / "tc.json").read_text()) == described
    config = CONFIGS["tc-8"]
    assert (described["core"], described["config"], described["digest"]) == (
        "tensorcore", "tc-8", config.digest())
    assert described["memory_bits"] == config.memory_bits
    assert described["latency"] == {"stats": 1}

    head = re.search(r"^module tensorcore\(([\w\s,]*)\);", (folder / "tc.v").read_text(), re.M)
    assert sorted(re.findall(r"\w+", head[1])) == sorted(p["name"] for p in described["ports"])


def test_ports_of_the_tensor_core(core):
    ports = {port["name"]: port for port in core[1]["ports"]}
    streams = {"commands": "in", "weights": "in", "channels": "in", "activations": "in",
               "outputs": "out"}
    for name, direction in streams.items():
        back = {"in": "out", "out": "in"}[direction]
        assert [ports[f"{name}__{part}"]["direction"] for part in ("payload", "valid", "ready")] \
            == [direction, direction, back]
    # Two rows of two weights and their metadata; two columns of four activations.
    assert ports["weights__payload"]["width"] == 2 * 2 * (8 + 2)
    assert ports["activations__payload"]["width"] == 2 * 4 * 8
    assert ports["outputs__payload"]["width"] == 2 * 32 + 2
    fields = ports["commands__payload"]["fields"]
    assert [field["name"] for field in fields][:3] == ["rows", "columns", "block"]
    assert sum(field["width"] for field in fields) == ports["commands__payload"]["width"]
    assert ports["busy"]["direction"] == "out"


@pytest.mark.skipif(not shutil.which("verilator"), reason="verilator is missing")
def test_verilator_lints_the_files_without_a_warning(core):
    done = subprocess.run(
        ["verilator", "--lint-only", "-Wall", "--top-module", "tensorcore", "tc.vlt", "tc.v"],
        cwd=core[0], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("core", "config", "message"), [
    ("tensorcore", "eie-4", "there is no configuration 'eie-4'; choose one of tc-64, "),
    ("eie", "tc-8", "there is no configuration 'tc-8'; choose one of eie-4, "),
    ("gpu", "tc-8", "there is no core 'gpu'; choose one of eie, tensorcore"),
])
def test_configuration_of_another_machine(cli, tmp_path, core, config, message):
    done = cli("verilog", core, "-o", tmp_path / "m.v", "--config", config)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_verilog_of_an_accelerator(cli, tmp_path):
    done = cli("verilog", "accelerator", "-o", tmp_path / "a.v", "--config", "eie-4,tc-8", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.rdl", "a.v", "a.vlt"]
    assert done.json["config"] == ["eie-4", "tc-8"]
    system = SystemConfig((ARRAYS["eie-4"], CONFIGS["tc-8"]))
    assert done.json["registers"] == {
        f"{page.name}.{name}": at for page in register_map(system).values()
        for name, at in page.addresses.items()}
    assert done.json["registers"]["tensorcore.busy"] == 0x2000
    assert done.json["identity"] == {"magic": "ZSK1", "version": 3,
                                     "digest": f"{system.digest():016x}"}
    assert "bus__request__payload" in [port["name"] for port in done.json["ports"]]
    assert r"\tensorcore @ 0x2000;" in (tmp_path / "a.rdl").read_text()


def test_accelerator_of_two_cores_of_a_kind(cli, tmp_path):
    done = cli("verilog", "accelerator", "-o", tmp_path / "a.v", "--config", "tc-8, tc-8", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["config"] == ["tc-8", "tc-8"]
    assert {"tensorcore.weights", "tensorcore_1.weights"} < set(done.json["registers"])


def test_accelerator_of_too_many_cores(cli, tmp_path):
    done = cli("verilog", "accelerator", "-o", tmp_path / "a.v", "--config",
               ",".join(["tc-8"] * 16))
    assert done.code == 2
    assert "--config names 16 configurations, and an accelerator has 15 cores" in done.stderr
    assert not list(tmp_path.iterdir())


def test_verilog_writes_three_files(cli, tmp_path):
    done = cli("verilog", "eie", "-o", tmp_path / "eie.v", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert "module eie" in (tmp_path / "eie.v").read_text()
    assert json.loads((tmp_path / "eie.json").read_text()) == done.json
    assert (tmp_path / "eie.vlt").exists()


def test_doctor_lists_tools(cli):
    done = cli("doctor", "--json")
    assert done.code == 0
    found = {row["tool"] for row in done.json["tools"]}
    assert {"amaranth", "C++ compiler", "nextpnr-ecp5"} <= found


def test_doctor_warms_what_is_there(cli, monkeypatch):
    runs = []
    monkeypatch.setattr(gateware, "_package", lambda name: None if "ice40" in name else "1.0")
    monkeypatch.setattr(Tool, "command", lambda tool: [tool.native])
    monkeypatch.setattr(gateware.programs, "run", runs.append)
    monkeypatch.setattr(gateware, "_version", lambda *_: "1.0")
    assert cli("doctor", "--json").code == 0
    assert runs == []
    assert cli("doctor", "--warm", "--json").code == 0
    assert runs == [[name, "--help"] for name in (
        "nextpnr-ecp5", "ecppack", "nextpnr-himbaechel", "gowin_pack")]
