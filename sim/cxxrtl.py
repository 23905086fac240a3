"""Compiled simulation of any component: RTLIL, Yosys CXXRTL, a C++ compiler, ctypes."""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from amaranth.lib import wiring

from zeroskip.hw.emit import rtlil, yosys
from zeroskip.sim.engine import PATIENCE
from zeroskip.sw.errors import ToolMissing

_DRIVER = Path(__file__).with_name("cxxrtl_driver.cc")
# NDEBUG: CXXRTL's assertions also look at the address of a write that is not enabled.
_FLAGS = ("-O2", "-shared", "-fPIC", "-std=c++14", "-w", "-DNDEBUG")


def compiler() -> list[str]:
    """The command of a C++ compiler: ``$CXX``, the system's, or the one of ``ziglang``."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise ToolMissing("there is no C++ compiler for the compiled simulation; install g++, or "
                      "'pip install ziglang'")


def cache() -> Path:
    """The folder of the compiled models."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "zeroskip", "cxxrtl")


def build(make: Callable[[], wiring.Component], name: str, key: str) -> Path:
    """A shared library that simulates the component that ``make`` makes.

    It is built once per gateware source, ``key`` (which tells components of one ``name``
    apart: their configuration), compiler and version of the tools. Two processes may build
    the same one at the same time: each works in a folder of its own, and the finished file
    takes its name in one step.
    """
    command = compiler()
    content = "\0".join([*_sources(), name, key, *command, *_FLAGS])
    library = cache() / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:24]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        source, model = Path(folder, "model.il"), Path(folder, "model.cc")
        source.write_text(rtlil(make(), name))
        yosys(f"read_rtlil {source}", f"write_cxxrtl -noflatten -g2 {model}")
        include = Path(importlib.util.find_spec("pyosys").origin).parent \
            / "share/include/backends/cxxrtl/runtime"
        with model.open("a") as file:
            file.write(f'\n#include <cxxrtl/capi/cxxrtl_capi.cc>\n#include "{_DRIVER}"\n')
        built = Path(folder, "model.so")
        done = subprocess.run(
            [*command, *_FLAGS, f"-I{include}", "-o", str(built), str(model)],
            capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolMissing(f"the C++ compiler '{shlex.join(command)}' failed; install another, "
                              f"or name one in CXX; it said:\n{done.stderr[-2000:]}")
        os.replace(built, library)
    return library


def _sources() -> list[str]:
    """All that a compiled model is made from, but for the configuration and the compiler."""
    gateware = Path(importlib.util.find_spec("zeroskip.hw").submodule_search_locations[0])
    files = [_DRIVER, *sorted(gateware.rglob("*.py"))]
    versions = [importlib.metadata.version(name) for name in ("amaranth", "pyosys")]
    return [*(path.read_text() for path in files), *versions]


class _Object(ctypes.Structure):
    """``struct cxxrtl_object``."""

    _fields_ = (
        ("type", ctypes.c_uint32), ("flags", ctypes.c_uint32),
        ("width", ctypes.c_size_t), ("lsb_at", ctypes.c_size_t),
        ("depth", ctypes.c_size_t), ("zero_at", ctypes.c_size_t),
        ("curr", ctypes.POINTER(ctypes.c_uint32)), ("next", ctypes.POINTER(ctypes.c_uint32)),
        ("outline", ctypes.c_void_p), ("attrs", ctypes.c_void_p),
    )


class _Stream(ctypes.Structure):
    """``struct Stream`` of the driver."""

    _fields_ = (
        ("payload", ctypes.POINTER(_Object)), ("valid", ctypes.POINTER(_Object)),
        ("ready", ctypes.POINTER(_Object)), ("items", ctypes.c_void_p),
        ("count", ctypes.c_uint64), ("done", ctypes.c_uint64),
        ("times", ctypes.c_void_p),
    )


class Model:
    """One instance of a compiled design, with one clock ``clk``.

    Payloads are little-endian rows of 32-bit words, as many as the payload is wide.
    """

    def __init__(self, library: Path):
        self._library = ctypes.CDLL(str(library))
        for function, result in {
            "cxxrtl_design_create": ctypes.c_void_p, "cxxrtl_create": ctypes.c_void_p,
            "cxxrtl_get_parts": ctypes.POINTER(_Object), "cxxrtl_step": ctypes.c_size_t,
            "cxxrtl_destroy": None, "zeroskip_run": None,
        }.items():
            getattr(self._library, function).restype = result
        toplevel = ctypes.c_void_p(self._library.cxxrtl_design_create())
        self._handle = ctypes.c_void_p(self._library.cxxrtl_create(toplevel))
        self._clock = self._object("clk")
        self._now = ctypes.c_uint64()

    def __del__(self):
        if hasattr(self, "_handle"):
            self._library.cxxrtl_destroy(self._handle)

    def _object(self, name: str):
        parts = ctypes.c_size_t()
        found = self._library.cxxrtl_get_parts(self._handle, name.encode(), ctypes.byref(parts))
        if not found or parts.value != 1:
            raise KeyError(f"the design has no object '{name}'")
        return found

    def poke(self, name: str, value: int) -> None:
        """Sets an input of at most 32 bits."""
        self._object(name).contents.next[0] = value

    def peek(self, name: str) -> int:
        """The value of a signal of at most 32 bits after the last step."""
        return self._object(name).contents.curr[0]

    def tick(self, cycles: int = 1) -> None:
        """Advances the clock."""
        for _ in range(cycles):
            for level in (0, 1):
                self._clock.contents.next[0] = level
                self._library.cxxrtl_step(self._handle)

    def run(self, send: dict[str, np.ndarray], receive: dict[str, int],
            patience: int = PATIENCE) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Sends and receives over streams until all is done.

        Parameters
        ----------
        send : stream name to uint32 [items, words]
        receive : stream name to number of items
        patience : int
            Cycles without any transfer after which ``TimeoutError`` is raised.

        Returns
        -------
        dict of stream name to uint32 [items, words] and uint64 [items], the cycle of each,
        counted over all runs
        """
        sent = {name: np.ascontiguousarray(items, np.uint32) for name, items in send.items()}
        received = {name: (np.zeros((count, self._words(name)), np.uint32),
                           np.zeros(count, np.uint64)) for name, count in receive.items()}
        for name, items in sent.items():
            if items.shape[1:] != (self._words(name),):
                raise ValueError(f"items for '{name}' must be {self._words(name)} words wide, "
                                 f"not {items.shape[1:]}")
        senders = [self._stream(name, items, None) for name, items in sent.items()]
        receivers = [self._stream(name, *arrays) for name, arrays in received.items()]
        c_senders = (_Stream * len(senders))(*senders)
        c_receivers = (_Stream * len(receivers))(*receivers)
        self._library.zeroskip_run(
            self._handle, self._clock, c_senders, ctypes.c_uint64(len(senders)), c_receivers,
            ctypes.c_uint64(len(receivers)), ctypes.c_uint64(patience), ctypes.byref(self._now))
        for name, stream in zip([*sent, *received], [*c_senders, *c_receivers], strict=True):
            if stream.done != stream.count:
                raise TimeoutError(f"'{name}' moved {stream.done} of {stream.count} items, then "
                                   f"nothing happened for {patience} cycles")
        return received

    def _stream(self, name: str, items: np.ndarray, times: np.ndarray | None) -> _Stream:
        ports = (self._object(f"{name}__{part}") for part in ("payload", "valid", "ready"))
        return _Stream(*ports, items.ctypes.data, len(items), 0,
                       None if times is None else times.ctypes.data)

    def _words(self, stream: str) -> int:
        return -(-self._object(f"{stream}__payload").contents.width // 32)
