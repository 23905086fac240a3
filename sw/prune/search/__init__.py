"""Searches for ratios: densities by layer, found by trying many.

=============  ==============================================================  ====================
name           what it tries                                                   accuracy is that of
=============  ==============================================================  ====================
``netadapt``   one layer more at a time, by a fixed step of cost               a short fine-tuning
``amc``        what a reinforcement learner proposes, layer by layer           one cut, no training
``random``     random densities                                                one cut, no training
=============  ==============================================================  ====================

All take a :class:`zeroskip.sw.prune.ratios.Task`, and return densities by layer that meet its
budget in one cut, and every trial in order. While they search, the cost is estimated by
``Task.table``, a :class:`zeroskip.sw.prune.lookup.LookUp`; the densities that are returned
are scaled until the true cost meets the budget. The same seed finds the same on the same machine.
"""

from collections.abc import Callable
from importlib import import_module

from zeroskip.sw.errors import BadInput, ToolMissing

SEARCHES = ("netadapt", "amc", "random")


def named(name: str) -> Callable:
    """The ``search`` of the module ``name``.

    Raises BadInput for a name that is not one of ``SEARCHES``, ToolMissing where a package that
    it needs is not installed.
    """
    if name not in SEARCHES:
        raise BadInput(f"there is no search {name!r}; choose one of {', '.join(SEARCHES)}.")
    try:
        return import_module(f"{__name__}.{name}").search
    except ModuleNotFoundError as error:
        raise ToolMissing(f"{error.name} is not installed; get it with: "
                          "pip install 'zeroskip[train]'") from error
