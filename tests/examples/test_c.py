"""The C example: what ``export-c`` writes runs on a simulated system, from C, with the bits of the
reference."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples/c"
BIN = Path(sys.executable).parent


def make(build, **variables):
    """``make`` in the example's folder; its exit code and stdout."""
    done = subprocess.run(
        ["make", "-C", FOLDER, f"BUILD={build}", f"PYTHON={sys.executable}",
         f"ZEROSKIP={BIN / 'zeroskip'}", *(f"{key}={value}" for key, value in variables.items())],
        capture_output=True, text=True, check=False, timeout=280)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.skipif(not all(map(shutil.which, ("make", "cc", "g++"))), reason="no C compiler")
def test_three_programs_run_from_c(tmp_path):
    code, said = make(tmp_path / "build")
    assert code == 0, said
    assert ("tensor core: 20 outputs\nEIE: 28 outputs\nEIE in loads: 164 outputs\n"
            "all equal, ") in said
    # A change of one word is seen: of a weight, of a place, of two loads.
    for header, name in (("net.h", "net_layer2_weights"), ("net.h", "net_layer1_places"),
                         ("vector.h", "vector_load"),
                         ("large.h", "large_layer1_row0_starts0")):
        path = tmp_path / "build" / header
        whole = path.read_text()
        path.write_text(spoilt(whole, name))
        code, said = make(tmp_path / "build")
        assert code != 0, name
        assert "WRONG" in said, said
        path.write_text(whole)


def spoilt(text, name):
    """A header in which the third number of an array is another."""
    start = text.index(f"{name}[] = {{")
    head, rest = text[:start], text[start:]
    numbers = rest.split(", ", 3)
    numbers[2] = str(int(numbers[2].strip(), 0) ^ 2)
    return head + ", ".join(numbers)
