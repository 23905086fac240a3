"""The wheel holds everything, parts import only what they may, dependencies have reasons."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from zipfile import ZipFile

import pytest

from zeroskip.sw.engines import registry

ROOT = Path(__file__).parents[1]
PARTS = ("hw", "sw", "sim", "fpga")
SOURCES = [path for part in PARTS for path in sorted(ROOT.joinpath(part).rglob("*.py"))]
PACKAGES = [path.parent.relative_to(ROOT) for path in SOURCES if path.name == "__init__.py"]


def command(*args, cwd, **environment):
    """Runs Python with these arguments, away from the checkout; gives its stdout."""
    done = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, capture_output=True,
                          text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: an old ``build`` folder in the checkout cannot help."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
        elif path.name in PARTS:
            shutil.copytree(path, source / path.name,
                            ignore=shutil.ignore_patterns("__pycache__"))
    command("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel installed in it."""
    target = tmp_path_factory.mktemp("installed")
    command("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target,
            wheel, cwd=target)
    return target


def imports(path):
    """What a source file imports of ours, anywhere in it: ``zeroskip.hw.memory``, ..."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "zeroskip")


def package(name):
    """The folder of a module, or of what is imported from it: ``hw/eie`` of
    ``zeroskip.hw.eie.config.CONFIGS``."""
    folder = Path()
    for part in name.split(".")[1:]:
        if not (ROOT / folder / part).is_dir():
            break
        folder /= part
    return str(folder)


def arrows():
    """Between packages: which others each imports, anywhere in its files."""
    found = {str(folder): set() for folder in PACKAGES}
    for path in SOURCES:
        own = str(path.parent.relative_to(ROOT))
        found[own] |= {package(name) for name in imports(path)} - {own}
    return found


ENGINES = [path.parent.name for path in sorted(ROOT.glob("sw/engines/*/__init__.py"))]
COMMON = {"sw", "sw/graph"}
ALLOWED = {
    "hw": set(),
    "hw/netlist": {"hw"},
    **{f"hw/{engine}": {"hw", "hw/netlist"} for engine in ENGINES},
    "hw/fronts": {"hw"},
    "hw/system": {"hw", "hw/fronts", "hw/netlist"},
    "sw": set(),
    "sw/graph": {"sw"},
    "sw/formats": {"sw"},
    "sw/quantize": COMMON,
    "sw/frontends": {*COMMON, "sw/formats", "hw"},
    "sw/prune": {*COMMON, "sw/formats", "sw/frontends", "sw/quantize"},
    "sw/prune/search": {*COMMON, "sw/formats", "sw/frontends", "sw/quantize", "sw/prune"},
    "sw/engines": {*COMMON, "sw/quantize", "hw"},
    **{f"sw/engines/{engine}": {*COMMON, "sw/quantize", "sw/formats", "sw/engines", "hw",
                                f"hw/{engine}"} for engine in ENGINES},
    "sw/compiler": {*COMMON, "sw/quantize", "sw/formats", "sw/frontends", "sw/engines", "hw"},
    "sw/runtime": {*COMMON, "sw/frontends", "sw/engines", "sw/compiler", "hw", "hw/fronts",
                   "hw/system"},
    "sim": {*COMMON, "sw/engines", "sw/compiler", "sw/runtime", "sw/engines/eie", "hw",
            "hw/netlist", "hw/fronts", "hw/system", "hw/eie"},
    "fpga": {"sw", "hw", "hw/netlist", "hw/system"},
    "fpga/families": {"sw", "fpga"},
    "fpga/boards": {"sw", "fpga", "fpga/families", "hw/system",
                    *(f"hw/{engine}" for engine in ENGINES)},
}
"""What each package may import; ``sw/experiments``, ``sw/api`` and ``sw/cli`` anything that imports
none of them. An engine has a folder in ``hw`` and one of the same name in ``sw/engines``.
Boards and the cases for tests of the array name built-in engines; nothing else of this does."""


def foreign(sources, allowed):
    """Imports of ours by ``sources`` that lie outside the ``allowed`` parts."""
    return [f"{path.relative_to(ROOT)}: {name}" for path in sources for name in imports(path)
            if name.split(".")[1] not in allowed]


def below(*names):
    found = [path for path in SOURCES if path.is_relative_to(ROOT.joinpath(*names))]
    assert found
    return found


def test_wheel_holds_every_source_file(wheel):
    held = {name for name in ZipFile(wheel).namelist() if name.endswith(".py")}
    assert held == {f"zeroskip/{path.relative_to(ROOT)}" for path in SOURCES} | {
        "zeroskip/__init__.py", "zeroskip/__main__.py"}


def test_wheel_holds_the_data_and_nothing_else(wheel):
    others = [name for name in ZipFile(wheel).namelist()
              if not name.endswith(".py") and ".dist-info/" not in name]
    assert sorted(others) == [f"zeroskip/{name}" for name in (
        "fpga/families/spram.v", "sim/clock_loop.h", "sim/cxxrtl_driver.cc",
        "sim/verilator_driver.cc", "sw/experiments/nine_layers.csv",
        "sw/experiments/sentences.tsv")]


def test_every_folder_of_sources_is_a_package():
    assert {path.parent.relative_to(ROOT) for path in SOURCES} == set(PACKAGES)


def test_wheel_imports_outside_the_checkout(installed):
    names = ["zeroskip." + ".".join(package.parts) for package in PACKAGES]
    names += ["zeroskip.sw.cli.main", "zeroskip.sw.runtime.backends"]
    code = f"import importlib\nfor n in {names}: print(importlib.import_module(n).__file__)"
    files = command("-c", code, cwd=installed, PYTHONPATH=str(installed)).splitlines()
    assert len(files) == len(names)
    assert all(Path(file).is_relative_to(installed) for file in files)


def test_installed_command_runs_outside_the_checkout(installed):
    code = ("import sys; sys.argv = ['zeroskip', '--help']\n"
            "from zeroskip.sw.cli.entry import main; main()")
    assert "verify" in command("-c", code, cwd=installed, PYTHONPATH=str(installed))


def test_hw_imports_nothing_of_ours_but_hw():
    assert foreign(below("hw"), {"hw"}) == []


def test_packages_import_what_the_table_allows():
    found = arrows()
    assert set(found) == {*ALLOWED, "sw/experiments", "sw/api", "sw/cli"}
    assert {f"{own} -> {other}" for own, others in found.items() if own in ALLOWED
            for other in others - ALLOWED[own]} == set()
    assert "sw/cli" not in found["sw/experiments"]


def test_no_package_imports_in_a_circle():
    TopologicalSorter(arrows()).prepare()


def test_a_circle_is_found():
    with pytest.raises(CycleError):
        TopologicalSorter({**arrows(), "hw": {"sw/cli"}}).prepare()


@pytest.mark.parametrize("folder", ["sw/engines", "sw/compiler", "sw/runtime", "hw/system",
                                    "hw/fronts"])
def test_only_the_registry_names_an_engine(folder):
    """Outside of its own folders; an ``isinstance`` of its classes would need the import that the
    table above forbids."""
    quoted = {f'"{name}"' for name in registry.names()}
    assert quoted
    found = {path.name for path in ROOT.joinpath(folder).glob("*.py")
             if any(name in path.read_text() for name in quoted)}
    assert found == ({"registry.py"} if folder == "sw/engines" else set())


def test_golden_shares_no_arithmetic_with_what_it_judges():
    """Only errors, and what holds a layer's numbers or finds its engine's golden."""
    golden = (*(f"engines/{engine}/golden" for engine in ENGINES), "graph/convolution",
              "runtime/golden_network")
    named = {name for file in golden for name in imports(ROOT / f"sw/{file}.py")}
    assert named <= {f"zeroskip.sw.{name}" for name in (
        "errors.BadInput", "graph.im2col.Geometry", "graph.convolution.convolve",
        "engines.base.ReferenceLayer", "engines.registry")}


def test_sim_imports_only_hw_and_sw():
    assert foreign(below("sim"), {"hw", "sw", "sim"}) == []


def test_fpga_imports_only_hw_and_sw():
    assert foreign(below("fpga"), {"hw", "sw", "fpga"}) == []


def test_only_the_command_line_imports_itself():
    sources = [path for path in SOURCES if not path.is_relative_to(ROOT / "sw/cli")]
    assert not [name for path in sources for name in imports(path)
                if name.startswith("zeroskip.sw.cli")]


def test_imports_are_found(tmp_path):
    source = tmp_path / "source.py"
    source.write_text("import zeroskip.sim.bench, numpy\n"
                      "def f():\n    from zeroskip import fpga\n    from zeroskip.hw import emit\n")
    assert list(imports(source)) == ["zeroskip.sim.bench", "zeroskip.fpga", "zeroskip.hw.emit"]


@pytest.mark.parametrize("module", ["torch", "matplotlib", "sklearn", "onnxruntime"])
def test_the_command_line_imports_what_is_large_only_where_needed(module, tmp_path):
    code = f"import sys, zeroskip.sw.cli.main; print({module!r} in sys.modules)"
    assert command("-c", code, cwd=tmp_path) == "False\n"


SCRATCH = ("hw/netlist/emit.py", "fpga/area.py", "sim/compiled.py", "sim/cxxrtl.py",
           "sim/proof.py", "sim/verilator.py")
"""They write into folders that end with them, where nobody looks."""


@pytest.mark.parametrize(("pattern", "allowed"), [
    (r"\.write_text\(|\.write_bytes\(|np\.save\(|open\(([^\"()]*, )?\"[wax]|os\.(replace|rename)",
     ("sw/files.py", "fpga/flow.py", *SCRATCH)),
    (r"^import subprocess|^from subprocess|TemporaryDirectory\(|mkdtemp", ("hw/tools.py",)),
])
def test_one_way_to_write_a_file_and_to_run_a_program(pattern, allowed):
    """Whole files, by ``sw/files.py`` (the log of ``fpga/flow.py`` grows while it is read); and
    programs that end with us, by ``hw/tools.py``."""
    found = {str(path.relative_to(ROOT)) for path in SOURCES
             if re.search(pattern, path.read_text(), re.MULTILINE)}
    assert found <= set(allowed)
    assert found & {"sw/files.py", "hw/tools.py"}


def test_every_dependency_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    dependencies = [each for group in groups for each in group]
    assert dependencies
    assert [each for each in dependencies
            if not re.search(rf'^ *"{re.escape(each)}", +# \w.{{3}}', text, re.MULTILINE)] == []


def test_the_lock_file_pins_what_the_constraints_pin_and_hashes_all_of_it():
    constraints = dict(line.lower().replace("_", "-").split("==")
                       for line in (ROOT / "constraints.txt").read_text().splitlines())
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    entries = [line for line in lock if not line.startswith("#")]
    locked = dict(re.match(r"([a-z0-9.-]+)==(\S+)", line).groups() for line in entries)
    assert locked.items() <= constraints.items()
    assert all("--hash=sha256:" in line for line in entries)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"],
              *(project["optional-dependencies"][extra] for extra in ("train", "dev", "fpga"))]
    wanted = {re.match(r"[\w-]+", each)[0].lower().replace("_", "-")
              for group in groups for each in group}
    assert wanted - locked.keys() == {"torch"}
