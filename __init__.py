"""Open sparse-inference hardware: compile a model, run it, verify it; see
:mod:`zeroskip.sw.api.program`."""

from importlib import import_module

__all__ = ["Program", "compile", "load"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'zeroskip' has no attribute {name!r}")
    return getattr(import_module("zeroskip.sw.api.program"), name)
