"""One module for many equal components: elaborated and written once, instantiated often."""

import contextvars
import functools
from collections.abc import Iterator

from amaranth.hdl import *
from amaranth.lib import wiring

_collected: contextvars.ContextVar[dict | None] = contextvars.ContextVar("collected", default=None)
_reset: contextvars.ContextVar[Value | None] = contextvars.ContextVar("reset", default=None)


def shared(elaborate):
    """Decorates ``elaborate`` of a component of which a design holds many copies.

    All that makes two of them differ must be their class and their ``config``. While a
    :class:`Collector` is at work they become instances of one module; otherwise, as in Amaranth's
    simulator, nothing changes.
    """
    @functools.wraps(elaborate)
    def instead(self, platform):
        collector = _collected.get()
        if collector is None or collector.top is self:
            return elaborate(self, platform)
        ports = {f"{flow}_{name}": value for name, flow, value in ports_of(self)}
        own = _reset.get()
        reset = ResetSignal() if own is None else own
        return Instance(collector.name_of(self), i_clk=ClockSignal(), i_rst=reset, **ports)
    return instead


def resettable(component: wiring.Component, reset: Value, platform) -> Fragment:
    """``component`` with a reset of its own, a register that its domain's reset sets; Amaranth's
    ``ResetInserter`` alone leaves out the instances that stand for :func:`shared` components.

    The instances get no other: most flip-flops of a large core then hang on a register and not
    on logic, which could not be placed near all of them."""
    token = _reset.set(reset)
    try:
        return ResetInserter(reset)(Fragment.get(component, platform))
    finally:
        _reset.reset(token)


def ports_of(component: wiring.Component) -> Iterator[tuple[str, str, Value]]:
    """Name, ``"i"`` or ``"o"``, and value of each port, named as in RTLIL and Verilog:
    ``inputs__payload``. The ready of a stream that always is is none."""
    for path, member, value in component.signature.flatten(component):
        value = Value.cast(value)
        if not isinstance(value, Const):
            yield "__".join(map(str, path)), "i" if member.flow is wiring.In else "o", value


class Collector:
    """Collects the shared components below ``top`` while it is elaborated; a context manager.

    ``names`` is of the whole design: the module of each class and configuration.

    Attributes
    ----------
    components : dict of module name to component
        In the order in which they were met, those below other shared components not included.
    """

    def __init__(self, top: wiring.Component, prefix: str, names: dict[tuple[type, object], str]):
        self.top, self.components, self._prefix, self._names = top, {}, prefix, names

    def name_of(self, component: wiring.Component) -> str:
        """The module that stands for ``component``: ``eie.pe``, of further configurations
        ``eie.pe_1``, ..."""
        kind, config = type(component), component.config
        others = sum(each is kind and other != config for each, other in self._names)
        name = self._names.setdefault(
            (kind, config), f"{self._prefix}.{kind.__name__.lower()}" + f"_{others}" * (others > 0))
        self.components.setdefault(name, component)
        return name

    def __enter__(self):
        self._token = _collected.set(self)
        return self

    def __exit__(self, *_):
        _collected.reset(self._token)
