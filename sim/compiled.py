"""What the compiled simulators share: the compiler, the cache, and the model in Python."""

import atexit
import contextlib
import ctypes
import errno
import functools
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from zeroskip.hw import tools
from zeroskip.sw.errors import ToolMissing
from zeroskip.sw.runtime.backend import PATIENCE, Simulated

DRIVERS = Path(__file__).parent
"""The folder of the C++ sources."""

LARGE = 20_000
"""Lines of RTLIL or Verilog up to which all copies of a module together are flattened."""

_FLAGS = ("-O2", "-shared", "-fPIC", "-std=c++17", "-w", "-fvisibility=hidden")


def compiler() -> list[str]:
    """The command of a C++ compiler: ``$CXX``, the system's, or the one of ``ziglang``."""
    if given := os.environ.get("CXX", "").strip():
        try:
            return shlex.split(given)
        except ValueError as error:
            raise ToolMissing(f"CXX is {given!r}, which is no command ({error}); name a C++ "
                              "compiler in it, or unset it") from None
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise ToolMissing("there is no C++ compiler for the compiled simulation; install g++, or "
                      "'pip install ziglang'")


def cache(simulator: str) -> Path:
    """The folder of the models compiled for ``simulator``, below ``$XDG_CACHE_HOME`` if that is an
    absolute path, else below the home folder's ``.cache``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path(os.path.expanduser("~"), ".cache")
    return base / "zeroskip" / simulator


def _writable(folder: Path) -> Path:
    """The folder, if it can be written, else one for this process."""
    try:
        if not folder.is_absolute():
            raise OSError(errno.ENOENT, "there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return _instead(folder, error.strerror)
    return folder


@functools.cache
def _instead(folder: Path, reason: str) -> Path:
    """A folder for what belongs into another, until the process ends; says so, once."""
    print(f"zeroskip: {folder}: {reason}; what is compiled is kept for this run only, until "
          "XDG_CACHE_HOME names a folder that can be written", file=sys.stderr)
    kept = contextlib.ExitStack()
    atexit.register(kept.close)
    return kept.enter_context(tools.scratch())


def _sum(library: Path) -> str:
    """What stands in the file beside a library: its size and SHA-256."""
    content = library.read_bytes()
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n"


def _sound(library: Path) -> bool:
    """Whether a library is there as it was built; a damaged one ends the process that loads it."""
    try:
        return _sum_file(library).read_bytes() == _sum(library).encode()
    except OSError:
        return False


def _sum_file(library: Path) -> Path:
    return library.with_suffix(".sum")


def build_once(simulator: str, name: str, keys: list[str],
               generate: Callable[[Path], list[str]]) -> Path:
    """The shared library of a model, compiled only if it is not there yet, or damaged.

    Parameters
    ----------
    simulator, name : str
    keys : list of str
        With these, the gateware's and the drivers' source, the compiler and Amaranth's and
        Yosys' versions, a model is the same.
    generate : callable
        Writes ``model.cc`` into the folder that it is given and returns the arguments that
        the compiler needs for it.

    Two processes may build the same model at the same time: each works in a folder of its
    own, and the finished file takes its name in one step. Its size and digest are written beside
    it. Where the folder of the models cannot be written another serves, until the process ends.
    """
    command = [*compiler(), *_FLAGS]
    content = "\0".join([*_sources(), name, *keys, *command])
    folder = cache(simulator)
    file = f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:24]}.so"
    if _sound(folder / file):
        return folder / file
    library = _writable(folder) / file
    if _sound(library):
        return library
    with tools.scratch(library.parent) as work:
        with _without_collection():
            arguments = generate(work)
        built = work / "model.so"
        _compile([*command, *arguments, "-o", str(built), str(work / "model.cc")])
        _sum_file(built).write_text(_sum(built))
        os.replace(built, library)
        os.replace(_sum_file(built), _sum_file(library))
    return library


def _compile(command: list[str]) -> None:
    try:
        done = tools.run(command)
    except OSError as error:
        if error.filename != command[0]:
            raise
        raise ToolMissing(f"the C++ compiler '{command[0]}' cannot be run ({error.strerror}); "
                          "install it, or name another in CXX") from None
    if done.returncode:
        raise ToolMissing(f"the C++ compiler '{shlex.join(compiler())}' failed; install "
                          f"another, or name one in CXX; it said:\n{done.stderr[-2000:]}")


@contextlib.contextmanager
def _without_collection():
    """No search for garbage meanwhile; it takes half of Amaranth's time for a large design."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def large_copies(top: str, lines: dict[str, int], cells: dict[str, Counter]) -> set[str]:
    """Modules that are not to be flattened, as the PEs of an array.

    Flattening pays: a signal that crosses a module's border costs time whenever it settles.
    But to compile the code of each copy of a large module takes minutes, and the processor's
    cache does not hold it.

    Parameters
    ----------
    top : str
    lines : dict of module to int
    cells : dict of module to (module to number of copies in it)
    """
    @functools.cache
    def flat_lines(module: str) -> int:
        return lines[module] + sum(n * flat_lines(cell) for cell, n in cells[module].items())

    kept = set()

    def visit(module: str, copies: int):
        for cell, n in cells[module].items():
            keep = copies * n > 1 and copies * n * flat_lines(cell) > LARGE
            if keep:
                kept.add(cell)
            visit(cell, 1 if keep else copies * n)

    visit(top, 1)
    return kept


def _sources() -> list[str]:
    """All that a compiled model is made from, but for the configuration and the compiler."""
    gateware = Path(importlib.util.find_spec("zeroskip.hw").submodule_search_locations[0])
    files = [Path(__file__), *sorted(DRIVERS.glob("*.cc")), *sorted(DRIVERS.glob("*.h")),
             *sorted(gateware.rglob("*.py"))]
    versions = [importlib.metadata.version(name) for name in ("amaranth", "pyosys")]
    return [*(path.read_text() for path in files), *versions]


class _Port(ctypes.Structure):
    """``struct Port`` of the clock loop."""

    _fields_ = (("input", ctypes.c_void_p), ("output", ctypes.c_void_p),
                ("width", ctypes.c_uint64))

    @property
    def bytes(self) -> int:
        return -(-self.width // 8)


class _Stream(ctypes.Structure):
    """``struct Stream`` of the clock loop."""

    _fields_ = (
        ("payload", _Port), ("valid", _Port), ("ready", _Port),
        ("items", ctypes.c_void_p), ("count", ctypes.c_uint64), ("done", ctypes.c_uint64),
        ("times", ctypes.c_void_p),
    )


class _Serial(ctypes.Structure):
    """``struct Serial`` of the clock loop."""

    _fields_ = (("rx", _Port), ("tx", _Port), *((name, ctypes.c_uint64) for name in (
        "divisor", "sending", "send_timer", "receiving", "receive_timer", "byte")))


class Model(Simulated):
    """One instance of a compiled design, with one clock ``clk``.

    Names are those of the Verilog: ``inputs__payload`` is ``inputs.payload``. Payloads are
    little-endian rows of 32-bit words, as many as the payload is wide.
    """

    def __init__(self, library: Path):
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise ToolMissing(f"a compiled model cannot be loaded ({error}); name a folder whose "
                              "files may be run in XDG_CACHE_HOME") from None
        self._library.zeroskip_create.restype = ctypes.c_void_p
        self._library.zeroskip_find.restype = ctypes.c_bool
        for name in ("destroy", "settle", "tick", "run"):
            getattr(self._library, f"zeroskip_{name}").restype = None
        self._design = ctypes.c_void_p(self._library.zeroskip_create())
        self._now = ctypes.c_uint64()

    def __del__(self):
        if hasattr(self, "_design"):
            self._library.zeroskip_destroy(self._design)

    def _port(self, name: str) -> _Port:
        port = _Port()
        if not self._library.zeroskip_find(self._design, name.encode(), ctypes.byref(port)):
            raise KeyError(f"the design has no object '{name}'")
        return port

    def poke(self, name: str, value: int) -> None:
        """Sets an input; ``OverflowError`` if it is too narrow for ``value``."""
        port = self._port(name)
        if value >> port.width:
            raise OverflowError(f"'{name}' has {port.width} bits, too few for {value}")
        ctypes.memmove(port.input, value.to_bytes(port.bytes, "little"), port.bytes)

    def peek(self, name: str) -> int:
        """The value of a port."""
        port = self._port(name)
        self._library.zeroskip_settle(self._design)
        return int.from_bytes(ctypes.string_at(port.output, port.bytes), "little")

    def tick(self, cycles: int = 1) -> None:
        """Advances the clock."""
        self._library.zeroskip_tick(self._design, ctypes.c_uint64(cycles))

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
            self._check(name, items)
        senders = [self._stream(name, items, None) for name, items in sent.items()]
        receivers = [self._stream(name, *arrays) for name, arrays in received.items()]
        c_senders = (_Stream * len(senders))(*senders)
        c_receivers = (_Stream * len(receivers))(*receivers)
        self._library.zeroskip_run(
            self._design, c_senders, ctypes.c_uint64(len(senders)), c_receivers,
            ctypes.c_uint64(len(receivers)), ctypes.c_uint64(patience), ctypes.byref(self._now))
        for name, stream in zip([*sent, *received], [*c_senders, *c_receivers], strict=True):
            if stream.done != stream.count:
                raise TimeoutError(f"'{name}' moved {stream.done} of {stream.count} items, then "
                                   f"nothing happened for {patience} cycles")
        return received

    def _check(self, name: str, items: np.ndarray) -> None:
        """Refuses items that are not as wide as the stream's payload."""
        width, words = self._port(f"{name}__payload").width, self._words(name)
        if items.shape[1:] != (words,):
            raise ValueError(f"items for '{name}' must be {words} words wide, "
                             f"not {items.shape[1:]}")
        if width % 32 and (items[:, -1] >> np.uint32(width % 32)).any():
            raise ValueError(f"items for '{name}' must be {width} bits wide, not wider")

    def _stream(self, name: str, items: np.ndarray, times: np.ndarray | None) -> _Stream:
        ports = (self._port(f"{name}__{part}") for part in ("payload", "valid", "ready"))
        return _Stream(*ports, items.ctypes.data, len(items), 0,
                       None if times is None else times.ctypes.data)

    def _words(self, stream: str) -> int:
        return -(-self._port(f"{stream}__payload").width // 32)


class SerialLine:
    """A UART at two pins of a model, ``divisor`` clock cycles a bit."""

    def __init__(self, model: Model, *, rx: str, tx: str, divisor: int):
        self._model = model
        self._line = _Serial(model._port(rx), model._port(tx), divisor)
        self._serial = model._library.zeroskip_serial
        self._serial.restype = ctypes.c_uint64

    def run(self, data: bytes, cycles: int) -> tuple[int, bytes]:
        """Advances the clock; how many bytes of ``data`` went to the model, and what came."""
        received = ctypes.create_string_buffer(cycles // (10 * self._line.divisor) + 1)
        made = ctypes.c_uint64()
        sent = self._serial(
            self._model._design, ctypes.byref(self._line), data, ctypes.c_uint64(len(data)),
            received, ctypes.byref(made), ctypes.c_uint64(cycles))
        return sent, received.raw[:made.value]
