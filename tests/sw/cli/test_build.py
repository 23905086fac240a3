"""``build``: what it makes of a board's build, and its exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zeroskip.fpga import build, floor
from zeroskip.fpga.build import TimingMissed
from zeroskip.fpga.flow import BuildError
from zeroskip.sw.errors import ToolMissing

REPORT = {"board": "icebreaker", "config": "eie-icebreaker", "pes": 1, "multipliers": 0,
          "fmax_mhz": 30.5, "target_mhz": 30, "lut": 4700, "ff": 2700, "dsp": 2, "bram": 30,
          "spram": 4, "available": {"lut": 5280, "ff": 5280, "dsp": 8, "bram": 30, "spram": 4},
          "bitstream": "design.bin", "seconds": 60.0, "seed": 1,
          "critical_path": "a to b, 1.0 ns of logic and 2.0 ns of routing"}


@pytest.fixture
def built(monkeypatch):
    """The designs that are built; the report is ``REPORT``, or what is appended is raised."""
    designs, failures = [], []

    def instead(design, *_, **__):
        designs.append(design)
        if failures:
            raise failures[0]
        return REPORT
    monkeypatch.setattr(build, "build", instead)
    monkeypatch.setattr(floor, "floor", lambda _: [(1, 2, "top.eie"), (1, 2, "top.eie"),
                                                   (3, 1, "top.<link>")])
    return designs, failures


def test_report(cli, built, tmp_path):
    done = cli("build", "--board", "icebreaker", "-o", tmp_path / "new", "--json")
    assert (done.code, done.stderr, done.json) == (0, "", REPORT)
    (design,) = built[0]
    assert (design.board.name, design.name) == ("icebreaker", "eie-icebreaker")
    page = (tmp_path / "new" / "report.html").read_text()
    assert "30.5 MHz" in page
    assert '<td>LUTs</td><td class="n">4,700</td><td class="n">5,280</td><td class="n">89%' in page
    assert "top.eie: 2" in page
    assert "top.&lt;link&gt;: 1" in page


@pytest.mark.usefixtures("built")
def test_text(cli, tmp_path):
    done = cli("build", "--board", "icebreaker", "-o", tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert "30.5 MHz of 30 MHz" in " ".join(done.stdout.split())
    assert f"load it with iceprog {tmp_path}/design.bin" in done.stdout


@pytest.mark.parametrize(("failure", "code"), [
    (TimingMissed("too slow"), 1), (BuildError("it failed"), 3), (ToolMissing("get it"), 3)])
def test_failures(cli, built, tmp_path, failure, code):
    built[1].append(failure)
    done = cli("build", "--board", "ulx3s-85f", "--config", "tc-64", "-o", tmp_path)
    assert done == (code, "", f"zeroskip: {failure}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), [
    (("--board", "arty"), "there is no board 'arty'"),
    (("--board", "icebreaker", "--config", "tc-64"), "icebreaker has no configuration 'tc-64'"),
])
def test_unknown(cli, tmp_path, arguments, message):
    done = cli("build", *arguments, "-o", tmp_path / "out")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"zeroskip: {message}")
    assert not (tmp_path / "out").exists()


def test_folder_is_a_file(cli, tmp_path):
    (tmp_path / "out").write_text("")
    done = cli("build", "--board", "icebreaker", "-o", tmp_path / "out")
    assert (done.code, done.stdout) == (2, "")
    assert "a file is in the way; give the path of a folder" in done.stderr


NEXTPNR = """import os, pathlib, subprocess, sys, tempfile
tempfile.mkdtemp()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path("started").write_text(f"{os.getpid()} {child.pid}")
pathlib.Path("started").rename("pids")
child.wait()"""
PROGRAM = f"""import sys
from zeroskip.fpga import build
from zeroskip.fpga.family import Tool
from zeroskip.sw.cli.entry import main
build.synthesise = lambda *_, **__: None
Tool.command = lambda _: [sys.executable, "-c", {NEXTPNR!r}]
main()"""


def ended(pid):
    """Whether a process is gone; one whose parent died first waits for the system to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_end_from_outside_ends_nextpnr(number, tmp_path):
    """With all that it has started, and their temporary files."""
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "build", "--board", "icebreaker", "-o", str(out)],
        env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True)
    with process:
        for _ in range(600):
            if (out / "pids").exists():
                break
            time.sleep(0.1)
        pids = (out / "pids").read_text().split()
        assert list(temporary.iterdir())
        process.send_signal(number)
        assert (process.wait(30), process.stderr.read()) == (128 + number, "")
    for _ in range(100):
        if all(map(ended, pids)):
            break
        time.sleep(0.05)
    assert all(map(ended, pids))
    assert list(temporary.iterdir()) == []
