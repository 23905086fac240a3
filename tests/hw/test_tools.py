"""Programs of others, and that nothing of them stays."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zeroskip.hw import tools

FAMILY = """import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, os.environ["TMPDIR"], flush=True)
child.wait()"""


def gone(pid):
    """Whether a process ends soon."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True     # nobody has asked for its end yet
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def python(script):
    return [sys.executable, "-c", script]


def test_what_it_said(tmp_path):
    done = tools.run(python("import os, sys; print(os.getcwd()); print('no', file=sys.stderr);"
                            "sys.exit(3)"), folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path}\n", "no\n")


def test_what_is_no_text():
    assert tools.run(python(r"import os; os.write(1, b'\xff')")).stdout == "\ufffd"


def test_it_reads_nothing():
    script = ("import sys; from zeroskip.hw import tools\n"
              "print(tools.run([sys.executable, '-c', 'print(input())']).returncode)")
    done = subprocess.run(python(script), input="not for it\n", capture_output=True, text=True,
                          timeout=60, check=True)
    assert done.stdout == "1\n"


def test_it_takes_too_long(tmp_path):
    script = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()));" \
             "import time; time.sleep(60)"
    with pytest.raises(TimeoutError, match="did not end in 2 s"):
        tools.run(python(script), seconds=2)
    assert gone(int((tmp_path / "pid").read_text()))


def test_no_such_program():
    with pytest.raises(FileNotFoundError, match="'none'"):
        tools.run(["none"])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, RuntimeError])
def test_all_that_was_started_ends_with_the_block(end):
    found = []

    def work():
        with tools.started(python(FAMILY)) as process:
            found.extend(process.stdout.readline().split())
            raise end
    with pytest.raises(end):
        work()
    *pids, folder = found
    assert all(gone(int(pid)) for pid in pids)
    assert not Path(folder).exists()


def test_its_temporary_files_end_with_it():
    folder = tools.run(python("import tempfile; print(tempfile.mkdtemp())")).stdout.strip()
    assert folder
    assert not Path(folder).exists()


def test_a_full_disk_names_the_folder(tmp_path):
    with pytest.raises(OSError, match=rf"No space left.*'{tmp_path}/") as error, \
            tools.scratch(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
