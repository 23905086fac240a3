"""Tables split no word and no number; texts with brackets are shown as they are; names of options.
"""

import importlib.metadata
import io
import re
import time
from contextlib import redirect_stderr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

from zeroskip.sw.cli import screen
from zeroskip.sw.cli.main import app
from zeroskip.sw.cli.screen import Screen

REASON = ("It runs in sparse mode: 1:4 skips 3 of 4 weights on a configuration that has it, as "
          "tc-64-all, and 2 of 4 elsewhere.")
LAYER = "encoder.layers.11.attention.self.query/MatMul_quantized"
CAUSES = ["useful", "padding", "empty", "fill", "full", "tail"]

TABLES = {
    "inspect": (["name", "kind", "shape", "density", "pattern", "engine", "reason"], [
        [LAYER, "linear", [3072, 768], 0.1234567, "unstructured", "tensorcore", REASON],
        ["conv", "conv2d", [512, 512, 3, 3], 1.0, "dense", "tensorcore", REASON],
        ["top", "Softmax", None, None, None, None, "leave it out: it does not change which "
         "output is the largest"]]),
    "prune": (["layer", "shape before", "shape after", "density before", "density after"], [
        [LAYER, [25088, 4096], [12544, 4096], 0.9999, 0.01234]]),
    "compile": (["layer", "in", "out", "weights", "entries", "padding", "codebook error (RMS)",
                 "weights lost", "accumulator used", "shift"], [
        ["fc6", 25088, 4096, 102_760_448, 112_345_678, 12_345_678, 0.001234, 123_456, 0.98765,
         15], [LAYER, 9216, 4096, 37_748_736, 3_774_873, 0, 1.2e-05, 0, 0.5, 9]]),
    "run": (["backend", "images", "inputs_saturated", "inputs_far_outside", "outputs_saturated",
             "cycles_per_image", "utilisation"], [
        ["verilator", 100_000, 123_456, 99_999, None, 1_234_567.8, 0.8765]]),
    "convert": (["tensor", "type", "shape", "form", "pattern", "bytes", "bytes then"], [
        [f"model.{LAYER}.weight", "BF16", [11008, 4096], "bitmask -> dense", "2:4", 90_177_536,
         45_088_768], ["lm_head.weight", "F32", [32000, 4096], "unchanged", None, 524_288_000,
                       524_288_000]]),
    "bench eie": (["layer", "mask", "mode", "ideal", "RTL", "useful", "paper's", "faster",
                   "bits"], [
        ["NT-LSTM", "balanced", "zeroskip", 123_456.7, 1_234_567, 0.98765, 0.8765, 1.2345, 9.876],
        ["Alex-6", "skewed", "paper", 28_123.4, 51_234, 0.549, None, None, 12.34]]),
    "bench eie, causes": (["layer", "mask", "mode", *CAUSES], [
        ["NT-LSTM", "balanced", "zeroskip", *["12.3%"] * 6]]),
    "bench clock": (["mode", "LUT", "FF", "block RAM", "DSP", "MHz", "useful", "per 1000 LUTs",
                     "per block RAM"], [
        ["zeroskip", 1234.5, 987.25, 12.75, 1.0, 123.45, 0.87654, 3456.789, 123.456]]),
    "bench area": (["family", "multipliers in", "logic cells", "more", "flip-flops", "DSP blocks",
                    "block RAMs"], [
        ["ECP5", "DSP blocks", "12,345 / 11,234", "+10.1%", "23,456 / 22,345", "128 / 128",
         "104 / 104"]]),
    "bench tensorcore": (["m", "k", "n", "pattern", "dense_cycles", "sparse_cycles", "speedup",
                          "busy", "dense_busy", "exact"], [
        [3072, 768, 128, "2:4", 4_823_456, 2_412_345, 1.9876, 0.98765, 0.99876, True]]),
    "bench search": (["densities by", "cycles", "validation", "test", "test, fine-tuned",
                      "cycles, fine-tuned"], [
        ["sensitivity", *["24.9% (24.1% to 25.0%)"] * 5]]),
    "bench pruning": (["model", "method", "trained", "weights", "MACs", "dense", "pruned",
                       "spread", "change"], [
        ["convolutional", "2:4 by Wanda, rounded to 4 bits", "20 epochs, rewound", 123_456.0,
         1_234_567.0, 96.94444, 96.83333, 0.123456, -0.11111]]),
    "scan": (["layer", *(f"{each:.3g}" for each in (2, 3.09, 4.77, 7.37, 11.4, 17.6, 27.1, 41.9,
                                                    64.7, 100))], [
        [LAYER, *[100.0] * 10], ["fc2", *[98.75] * 10]]),
    "doctor": (["tool", "version", "for", "how to get it"], [
        ["nextpnr-himbaechel", None, "place and route, Gowin GW1NR-9C",
         "pip install 'zeroskip[fpga]'"],
        ["verilator", "Verilator 5.020 2024-01-01 rev (Debian 5.020-1)", "lints and simulates", ""],
        ["nextpnr-ecp5", "/opt/toolchains/oss-cad-suite/2026-01-01/bin/nextpnr-ecp5",
         "place and route, ECP5", ""]]),
}
"""Columns of commands' tables, with contents as long as they become."""


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_commands_with_long_contents(check_table, name):
    columns, rows = TABLES[name]
    title = f"/home/somebody/models/{'deep/' * 12}{name}.onnx: words of a title that is long " * 2
    lines = check_table(title, columns, rows)
    assert any("│" in line for line in lines)


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-10**12, 10**12), st.floats(allow_nan=False),
    st.text(st.sampled_from("abcdefg -[]/界"), max_size=60),
    st.lists(st.integers(0, 9999), max_size=4))


@st.composite
def tables(draw):
    columns = draw(st.lists(st.text("abcde xyz", min_size=1, max_size=20), min_size=1,
                            max_size=10))
    return columns, draw(st.lists(st.lists(CELLS, min_size=len(columns), max_size=len(columns)),
                                  max_size=4))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(table=tables(), title=st.text("title /-", max_size=200))
def test_any_table(check_table, table, title):
    check_table(title, *table)


def test_what_is_not_there_is_a_dash_and_a_column_of_numbers_all_the_same(check_table):
    lines = check_table("t", ["count", "share"], [[None, 0.5], [1234567, None]])
    assert lines[4:6] == ["│         - │   0.5 │", "│ 1,234,567 │     - │"]


def test_a_table_that_is_too_wide_is_a_block_for_each_row(check_table):
    lines = check_table("t", ["name", "path"], [["a", 50 * "x"], ["b", 50 * "y" + " z"]])
    assert len(lines) == 7
    lines = check_table("t", ["first name", "path"], [[40 * "a", 50 * "x"], ["b", "y"]])
    assert [line.split()[1:-1] for line in lines if line.startswith("│")] == [
        ["first", "name", "│", 40 * "a"], ["path", "│", 50 * "x"],
        ["first", "name", "│", "b"], ["path", "│", "y"]]


# --- brackets ---

def commands(group, path=()):
    """Every command with its path, those of groups too."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_every_bracket(cli, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "300")
    command = COMMANDS[path]
    shown = " ".join(cli(*path, "--help").stdout.split())
    texts = [command.help, *(getattr(each, "help", None) for each in command.params),
             *(each.help for each in getattr(command, "commands", {}).values())]
    brackets = [found for each in texts if each
                for found in re.findall(r"\[[^\]]*\]", each.replace("\\[", "["))]
    assert not [found for found in brackets if found not in shown]
    if path == ("bench", "eie"):
        assert "[out, in]" in brackets


def test_progress_shows_every_bracket(monkeypatch):
    monkeypatch.setattr(screen, "DELAY", 0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stderr = io.StringIO()
    with redirect_stderr(stderr), Screen(as_json=False, quiet=False).progress("[red]one") as update:
        time.sleep(0.2)
        update(1, 2, "layer [bold]two")
        time.sleep(0.2)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr.getvalue())
    assert "[red]one" in plain
    assert "layer [bold]two" in plain


# --- one name for each thing ---

WRITE = {"demo", "prune", "search", "compile", "run", "convert", "verilog", "build",
         "export-c"}


def test_every_command_that_writes_its_result_has_the_same_option():
    found = {" ".join(path) for path, command in COMMANDS.items()
             if any(set(each.opts) == {"--output", "-o"} for each in command.params)}
    assert found == WRITE
    for command in COMMANDS.values():
        for each in command.params:
            assert not {"--out", "-o", "--output"} & set(each.opts) or len(each.opts) == 2


def test_version(cli):
    assert cli("--version") == (0, f"zeroskip {importlib.metadata.version('zeroskip')}\n", "")


def test_without_a_command_there_is_help(cli):
    done = cli()
    assert done.code == 2
    assert "compile" in done.stdout
