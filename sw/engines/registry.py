"""The engines by name. A built-in one is imported when it is asked for."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from zeroskip.sw.errors import BadInput

if TYPE_CHECKING:   # the command line asks for names before it imports anything large
    from zeroskip.hw.core import CoreConfig
    from zeroskip.sw.engines.base import Engine

_ENGINES: dict[str, str | Engine] = {
    "eie": "zeroskip.sw.engines.eie.engine:EIEEngine",
    "tensorcore": "zeroskip.sw.engines.tensorcore.engine:TensorCoreEngine",
}
"""Engines, or where a class of one is defined. Of those that offer the same, the first is taken."""


def register(engine: Engine) -> None:
    """Adds an engine; ``ValueError`` where there is one of its name."""
    if engine.name in _ENGINES:
        raise ValueError(f"there is an engine '{engine.name}' already")
    _ENGINES[engine.name] = engine


def unregister(name: str) -> None:
    """Takes out an engine that was registered."""
    del _ENGINES[name]


def names() -> tuple[str, ...]:
    """Of all engines."""
    return tuple(_ENGINES)


def engine(name: str) -> Engine:
    """The engine of this name; ``BadInput`` where there is none."""
    if name not in _ENGINES:
        raise BadInput(f"there is no engine '{name}'; choose one of {', '.join(_ENGINES)}")
    found = _ENGINES[name]
    if isinstance(found, str):
        found = _ENGINES[name] = resolve_name(found)()
    return found


def engines() -> tuple[Engine, ...]:
    """All of them."""
    return tuple(map(engine, _ENGINES))


def of(config: CoreConfig) -> Engine:
    """The engine of a configuration."""
    return engine(config.kind)
