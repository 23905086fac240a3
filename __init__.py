"""Open sparse-inference hardware: prune a model, compile it, run it, verify it; see
:mod:`zeroskip.sw.api.program` and :mod:`zeroskip.sw.api.prune`."""

from importlib import import_module

_MODULES = {"Program": "program", "compile": "program", "load": "program", "prune": "prune"}

__all__ = ["Program", "compile", "load", "prune"]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'zeroskip' has no attribute {name!r}")
    return getattr(import_module(f"zeroskip.sw.api.{_MODULES[name]}"), name)
