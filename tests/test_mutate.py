"""The mutation tests' tool: what it changes, what it draws, and what it calls killed."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
sys.path.insert(0, str(TESTS))

import mutants  # noqa: E402
import mutate  # noqa: E402


def mutations(source):
    """(kind, mutated source) of every option of every point."""
    return {(kind, mutants.apply(source.encode(), edits).decode())
            for _, _, kind, options in mutants.Points(source.encode()).found for edits in options}


@pytest.mark.parametrize(("source", "kind", "mutated"), [
    ("x = a + b", "operator", ["x = (a - b)"]),
    ("x = c - a * b  # why", "operator", ["x = (c + a * b)  # why", "x = c - (a + b)  # why"]),
    ("x = a < b", "operator", ["x = (a <= b)", "x = (a >= b)"]),
    ("x = a <= b == c", "operator",
     ["x = (a < b == c)", "x = (a > b == c)", "x = (a <= b != c)"]),
    ("x = not a and b", "operator", ["x = (not a or b)", "x = (a) and b"]),
    ("x = ~a", "operator", ["x = (a)"]),
    ("x = 0", "constant", ["x = 1"]),
    ("x = 1", "constant", ["x = 0", "x = 2"]),
    ("x = -1", "constant", ["x = (-2)", "x = 0"]),
    ("x = 9", "constant", ["x = 8", "x = 10"]),
    ("x = .5", "constant", ["x = 1.0"]),
    ("x = True", "constant", ["x = False"]),
    ("m.d.comb += [\n    a.eq(b),  # why\n    c.eq(d),\n]", "assignment",
     ["m.d.comb += [\n    (),  # why\n    c.eq(d),\n]",
      "m.d.comb += [\n    a.eq(b),  # why\n    (),\n]"]),
    ("m.d.sync += a.eq(b)", "assignment", ["m.d.sync += ()"]),
    ("m.next = 'IDLE'", "assignment", ["pass"]),
    ("a[b] = c", "assignment", ["pass"]),
    ("def f(a):\n    a = b\n    c = a\n    c = b", "assignment",
     ["def f(a):\n    pass\n    c = a\n    c = b", "def f(a):\n    a = b\n    c = a\n    pass"]),
    ("a += b", "assignment", ["pass"]),
    ("a += b", "operator", ["a -= b"]),
    ("connect(a, b)", "call", ["pass"]),
    ("if a:\n    b", "condition", ["if not (a):\n    b"]),
    ("while a:\n    b", "condition", ["while not (a):\n    b"]),
    ("x = [a for a in b if a]", "condition", ["x = [a for a in b if (not (a))]"]),
    ("with m.If(a & b):\n    c", "condition", ["with m.If((a & b) == 0):\n    c"]),
    ("x = Mux(a, b, c)", "arms", ["x = Mux(a, c, b)"]),
    ("x = a if b else c", "arms", ["x = c if b else a"]),
    ("with m.Switch(a):\n    with m.Case(b):\n        c\n    with m.Case(d):\n        e\n"
     "    with m.Default():\n        f", "arms",
     ["with m.Switch(a):\n    with m.Case(d):\n        c\n    with m.Case(b):\n        e\n"
      "    with m.Default():\n        f"]),
    ("x = a[:b]", "slice", ["x = a[:(b) + 1]", "x = a[:(b) - 1]"]),
    ("x = 'ä', a + b", "operator", ["x = 'ä', (a - b)"]),
])
def test_mutations_of_each_kind(source, kind, mutated):
    assert {text for found, text in mutations(source) if found == kind} == set(mutated)


@pytest.mark.parametrize("source", [
    '"""Text."""', "import a", "x: A | B", "def f(a: A | B) -> C[1]:\n    pass",
    "@frozen(True)\nclass A:\n    pass", "raise A(1 + 2)", "assert a == 1", "x = f'{a + 1}'",
    "x = zip(a, b, strict=True)", "x = 'a' + b", "super().__init__()", "a = b", "self.a = b",
    "m.submodules[a] = b", "x = a.b[c]", "return_ = None",
])
def test_left_out(source):
    assert mutations(source) == set()


@pytest.mark.parametrize("source", ["if not a:\n    b", "if a == b:\n    c", "if a in b:\n    c"])
def test_a_condition_is_not_negated_twice(source):
    assert [kind for kind, _ in mutations(source)] == ["operator"]


def test_points_know_their_place():
    found = mutants.Points(b"class A:\n    def f(self):\n        return a + b").found
    assert [each[:3] for each in found] == [("A.f", 3, "operator")]


@pytest.mark.parametrize(("source", "before", "after"), [
    ("x = Mux(a, b, d)", "x = Mux(a, b, d)", "x = Mux(a, d, b)"),
    ("x = Mux(\n    a,  # why\n    b,\n    d)", "b, ... d)", "d, ... b)"),
])
def test_a_mutant_shows_the_lines_that_differ(source, before, after, tmp_path):
    tmp_path.joinpath("a.py").write_text(source)
    (mutant,) = mutants.sample(tmp_path, ["a.py"], 1, seed=1)
    assert (mutant.before, mutant.after) == (before, after)


@pytest.mark.parametrize("part", mutate.PARTS)
def test_mutants_of_the_sources_are_other_programs(part):
    for each in mutants.sample(ROOT, mutate.files_of(part), 60, seed=0):
        original = ast.parse(ROOT.joinpath(each.file).read_bytes())
        assert ast.dump(ast.parse(each.text)) != ast.dump(original)
        assert each.before != each.after


def test_files_of_a_half_a_folder_and_a_file():
    assert {"hw/netlist/emit.py", "hw/eie/queue.py"} < set(mutate.files_of("hw"))
    assert {"sw/compiler/program.py", "sw/formats/nm.py"} < set(mutate.files_of("sw"))
    assert "sw/cli/main.py" not in mutate.files_of("sw")
    assert all(name.startswith("hw/fronts/") for name in mutate.files_of("hw/fronts"))
    assert mutate.files_of("hw/eie/queue.py") == ["hw/eie/queue.py"]


@pytest.mark.parametrize("part", mutate.PARTS)
def test_every_source_that_can_be_mutated_has_tests(part):
    files = [name for name in mutate.files_of(part)
             if mutants.Points(ROOT.joinpath(name).read_bytes()).found]
    assert len(files) > 20
    for name in files:
        assert mutate.tests_of(name)
        assert all(ROOT.joinpath(test).is_file() for test in mutate.tests_of(name))
    assert {name for name in mutate.TESTS if name.startswith(part)} <= set(files)


@pytest.fixture
def folder(tmp_path):
    """A folder with a source file of forty points."""
    tmp_path.joinpath("a.py").write_text("".join(f"x{k} = a + b\n" for k in range(40)))
    return tmp_path


def draw(folder, count=20, seed=1):
    return [each.after for each in mutants.sample(folder, ["a.py"], count, seed)]


def test_a_seed_gives_one_draw(folder):
    assert draw(folder) == draw(folder) != draw(folder, seed=2)
    assert len(set(draw(folder, count=40))) == 40


def test_the_draw_is_the_same_on_every_computer(folder):
    assert draw(folder, count=3) == ["x20 = (a - b)", "x19 = (a - b)", "x32 = (a - b)"]


def test_a_draw_outlasts_changes_of_the_source(folder):
    before = draw(folder)
    text = folder.joinpath("a.py").read_text()
    folder.joinpath("a.py").write_text("# A line.\ny = c * d\n" + text)
    assert len(set(before) & set(draw(folder))) >= 19


def test_equal_lines_are_points_of_their_own(folder):
    folder.joinpath("a.py").write_text("[a + b]\n" * 9)
    found = mutants.sample(folder, ["a.py"], 9, seed=1)
    assert sorted(each.line for each in found) == list(range(1, 10))


def test_more_mutants_than_points_are_refused(folder):
    with pytest.raises(ValueError, match="there are 40 points"):
        draw(folder, count=41)


JUDGE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import mutate
from mutants import Mutant

mutate.LIBRARIES = ("pytest", "hypothesis")

def mutant(text):
    return Mutant("sw/formats/int4.py", "scope", 1, "kind", "before", "after", text)

text = mutate.ROOT.joinpath("sw/formats/int4.py").read_bytes()
texts = {
    "same": text,
    "wrong": text.replace(b"<< 4", b"<< 3"),
    "import": text.replace(b"import numpy", b"import nothing"),
    "endless": text.replace(b"    nibble = values", b"    while True: pass\\n    nibble = values"),
    "same again": text,
}
mutate.prepare(sys.argv[2])
print(mutate.measure(mutate.tests_of("sw/formats/int4.py"))[1], "|", json.dumps(
    {name: mutate.judge((mutant(text), 3)) for name, text in texts.items()}))
"""


def test_verdicts(tmp_path):
    done = subprocess.run([sys.executable, "-c", JUDGE, str(TESTS), str(tmp_path)],
                          capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    fault, results = done.stdout.split("|", 1)
    assert fault.strip() == ""
    results = json.loads(results)
    assert {name: result["verdict"] for name, result in results.items()} == {
        "same": "survived", "wrong": "killed", "import": "at import", "endless": "timed out",
        "same again": "survived"}
    assert "test_int4.py::test_the_first_value" in results["wrong"]["by"]
    assert 2 < results["endless"]["seconds"] < 6
    assert results["same"]["key"] == results["same again"]["key"] != results["wrong"]["key"]


def result(verdict, line=1, file="hw/eie/queue.py"):
    return {"verdict": verdict, "file": file, "line": line, "scope": "Queue.f", "kind": "constant",
            "before": f"x = {line}", "after": "x = 0"}


def test_a_known_result_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "RESULTS", tmp_path)
    mutant = mutants.sample(ROOT, ["hw/eie/queue.py"], 1, seed=1)[0]
    known = {"key": mutate.key(mutant), **result("survived")}
    tmp_path.joinpath("hw.jsonl").write_text(json.dumps(known) + "\n")
    assert mutate.run("hw", [mutant], jobs=1) == [known]


def test_report(tmp_path, monkeypatch):
    notes = tmp_path / "mutation.toml"
    monkeypatch.setattr(mutate, "NOTES", notes)
    notes.write_text("".join(
        f"[[{kind}]]\nfile = 'hw/eie/queue.py'\nscope = 'Queue.f'\nbefore = 'x = {line}'\n"
        f"after = 'x = 0'\nreason = '{reason}.'\n" for kind, line, reason in [
            ("equivalent", 2, "wider"), ("survivor", 3, "slower"), ("equivalent", 5, "killed")]))
    results = [result("survived", 4), result("survived", 2), result("survived", 3),
               result("at import", 6), result("timed out", 7),
               *(result("killed", line, "hw/system/top.py") for line in (5, 8))]
    lines = mutate.report("hw", results).splitlines()
    assert "| hw/system | 2 | 2 | 0 | 0 | 0 | 0 | 100.0 % |" in lines
    assert "| hw/eie | 5 | 0 | 1 | 1 | 1 | 2 | 50.0 % |" in lines
    assert lines.count("| all | 7 | 2 | 1 | 1 | 1 | 2 | 66.7 % |") == 2
    assert [line for line in lines if line.startswith(("#", "- "))] == [
        "## hw", "### Equivalent in hw",
        "- `hw/eie/queue.py:2` constant: `x = 2` → `x = 0`: wider.", "### Survivors in hw",
        "- `hw/eie/queue.py:3` constant: `x = 3` → `x = 0`: slower.",
        "- `hw/eie/queue.py:4` constant: `x = 4` → `x = 0`: not explained yet"]
