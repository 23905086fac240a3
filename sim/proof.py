"""Proofs over all inputs and all time: claims in Amaranth, Yosys to gates, PDR to the verdict.

PDR (property-directed reachability, also called IC3: Bradley, 2011; Een, Mishchenko and Brayton,
2011) finds an inductive invariant, or inputs from reset on that break a claim. It is that of the
``yosys-abc`` in the pyosys wheel.
"""

import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Cat, Fragment, Module, Signal, Value, ValueLike
from amaranth.lib import wiring

from zeroskip.hw import tools
from zeroskip.hw.netlist.emit import yosys
from zeroskip.hw.netlist.share import ports_of
from zeroskip.sw.errors import ToolMissing


class Refuted(AssertionError):
    """A claim does not hold."""


class Vacuous(AssertionError):
    """A claim says nothing: its occasion does not arise, or no register is left."""


class NotClosed(AssertionError):
    """There was neither a proof nor a counter-example in time."""


class Claims:
    """A device, and what is claimed of it in every cycle, whatever its inputs do.

    Inputs of ``dut`` that :attr:`m` does not drive are free (one that it drives in part is 0 in the
    rest), and so is its reset, at any time. All registers begin with their initial values, memories
    with zeros.

    Attributes
    ----------
    m : Module
        Holds ``dut``, and takes what watches it.
    """

    def __init__(self, dut: wiring.Component):
        self.m = Module()
        self.m.submodules.dut = self._fragment = Fragment.get(dut, None)
        self._ports = {name: value for name, flow, value in ports_of(dut) if flow == "i"}
        self._assumed: list[Value] = []
        self._claims: dict[str, tuple[Value, Value]] = {}

    def free(self, name: str, shape=1) -> Signal:
        """A new input, free in every cycle."""
        self._ports[name] = Signal(shape, name=name)
        return self._ports[name]

    def assume(self, condition: ValueLike):
        """Looks only at runs in which ``condition`` has held in each cycle so far."""
        self._assumed.append(Value.cast(condition).bool())

    def claim(self, name: str, condition: ValueLike, *, when: ValueLike = 1):
        """``condition`` holds in each cycle in which ``when`` does; some must be reachable."""
        if name in self._claims:
            raise ValueError(f"there are two claims called {name!r}")
        self._claims[name] = Value.cast(condition).bool(), Value.cast(when).bool()

    def inside(self, kind: type) -> list[wiring.Component]:
        """The components of a ``kind`` in the device, to watch their ports."""
        found, fragments = [], [self._fragment]
        for fragment in fragments:
            found += [each for each in fragment.origins or () if isinstance(each, kind)]
            fragments += [below for below, *_ in fragment.subfragments]
        return found

    def stable(self, o, *, part: Callable = Value.cast):
        """Claims the rule of streams: what is offered at ``o`` stays until it is taken; of its
        payload the ``part`` that is given as a function of it."""
        found = part(o.payload)
        waits, was = Signal(), Signal.like(found)
        self.m.d.sync += [waits.eq(o.valid & ~o.ready), was.eq(found)]
        self.claim("what is offered stays", o.valid & (found == was), when=waits)

    def follow(self, i, o, room: int, *, of: ValueLike = 1,
               part: Callable = Value.cast) -> Signal:
        """Claims that what leaves at ``o`` is what entered at ``i``, unchanged, in order, once.

        A free input marks one item, which is remembered; a counter of the items ahead of it says
        when it has to leave. An item that is lost is missed when another one leaves: that there
        is something at ``o`` while items are inside is for the caller to claim.

        Parameters
        ----------
        i, o : streams
        room : int
            Items between them, at most; that there are no more is claimed too.
        of : Value
            What is at ``o`` counts: it entered at ``i`` and not elsewhere.
        part : function of a payload
            What is compared of it, all by default. A block that treats all bits alike is as well
            proved with a few, and much sooner.

        Returns the number of items inside.
        """
        m, mark = self.m, self.free("mark")
        enters, leaves = i.valid & i.ready, o.valid & o.ready & of
        inside, ahead, marked = Signal(range(room + 2)), Signal(range(room + 2)), Signal()
        found = part(o.payload)
        item = Signal.like(found)
        m.d.sync += inside.eq(inside + enters - leaves)
        with m.If(enters & mark & ~marked):
            m.d.sync += [marked.eq(1), item.eq(part(i.payload)), ahead.eq(inside - leaves)]
        with m.Elif(marked & leaves):
            m.d.sync += [marked.eq(ahead != 0), ahead.eq(ahead - 1)]
        self.claim("nothing is invented", inside != 0, when=leaves)
        self.claim("no more than there is room for", inside <= room)
        self.claim("in order and unchanged", found == item,
                   when=marked & (ahead == 0) & o.valid & of)
        return inside

    def rtlil(self) -> str:
        """The module ``top``: outputs ``broken_k`` and ``seen_k`` for claim k, in order."""
        m, held, holds = self.m, Signal(init=1, reset_less=True), Signal()
        m.d.comb += holds.eq(held & Cat(self._assumed).all())
        m.d.sync += held.eq(holds)
        ports = dict(self._ports)
        for k, (condition, when) in enumerate(self._claims.values()):
            for name, value in (("broken", when & ~condition), ("seen", when)):
                ports[f"{name}_{k}"] = bit = Signal(name=f"{name}_{k}")
                m.d.comb += bit.eq(holds & value)
        return rtlil.convert(m, name="top", emit_src=False,
                             ports={name: (value, None) for name, value in ports.items()})

    @property
    def names(self) -> list[str]:
        """The claims' names, in order."""
        return list(self._claims)


def prove(claims: Claims, *, seconds: float = 60):
    """Proves every claim; returns if all hold.

    Parameters
    ----------
    claims : Claims
        Used up: a second proof takes new ones.
    seconds : float
        For each of the two searches.

    Raises
    ------
    Refuted
        A claim fails; it is named, with the cycle after reset.
    Vacuous
        The occasion of a claim never arises, or no register is left.
    NotClosed
        Time is up.
    ToolMissing
        The pyosys wheel has no ``yosys-abc``.
    """
    text, abc = claims.rtlil(), _abc()
    with tools.scratch() as folder:
        source = folder / "top.il"
        source.write_text(text)
        files = {name: folder / f"{name}.aig" for name in ("broken", "seen")}
        # "opt" ahead of each step that makes many gates of one cell.
        yosys(f"read_rtlil {source}", "hierarchy -top top", "proc", "flatten", "opt", "memory_map",
              "opt", "async2sync", "formalff -clk2ff -ff2anyinit", "setundef -undriven -anyseq",
              "setundef -zero", "techmap", "dffunmap", "opt_clean", "aigmap", "design -save all",
              *(command for name, file in files.items() for command in (
                  "design -load all", f"delete -output o:* w:{name}_* %d", "opt_clean",
                  f"write_aiger -I -zinit {file}")))
        log = _run(abc, files["broken"], "pdr", seconds)
        if not int(re.search(r"lat = +(\d+)", log)[1]):
            raise Vacuous("no register is left in the device")
        if found := re.search(r"Output (\d+) of miter .* asserted in frame (\d+)", log):
            raise Refuted(f"'{claims.names[int(found[1])]}' fails in cycle {found[2]}")
        if "Property proved" not in log:
            raise RuntimeError(f"yosys-abc gave no verdict:\n{log[-2000:]}")
        log = _run(abc, files["seen"], "pdr -a", seconds)
    seen = {int(k) for k in re.findall(r"Output (\d+) was (?:trivially )?asserted", log)}
    for k, name in enumerate(claims.names):
        if k not in seen:
            raise Vacuous(f"the occasion of '{name}' never arises")


def _abc() -> Path:
    """The ``yosys-abc`` of the pyosys wheel."""
    package = importlib.util.find_spec("pyosys")
    tool = Path(package.origin).parent / "yosys-abc" if package else None
    if tool is None or not os.access(tool, os.X_OK):
        raise ToolMissing("there is no yosys-abc in the package pyosys, and proofs need it; "
                          "'pip install --force-reinstall pyosys' brings it")
    return tool


def _run(abc: Path, file: Path, search: str, seconds: float) -> str:
    """What yosys-abc says of a file; it is ended when time is up."""
    command = [str(abc), "-c", f"read_aiger {file}; strash; print_stats; {search}"]
    try:
        done = tools.run(command, folder=file.parent, seconds=seconds)
    except TimeoutError:
        raise NotClosed(f"'{search}' did not end in {seconds:g} s") from None
    if done.returncode:
        raise RuntimeError(f"yosys-abc failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def edited(kind: type, *changes: tuple[str, str]) -> type:
    """A class with its source text changed: a fault planted in it, or a size made small.

    Each of ``changes`` is a text that stands once in the source, and what replaces it.
    """
    source = inspect.getsource(kind)
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} stands {source.count(old)} times in {kind.__name__}, "
                             "not once")
        source = source.replace(old, new)
    scope = dict(vars(sys.modules[kind.__module__]))
    exec(source, scope)
    return scope[kind.__name__]
