"""Pruning by recipe: one TOML file, checked, that says everything about a run.

::

    density = 0.12              # fraction of the weights that stay; or a table, by layer:
                                # [density]
                                # fc1 = 0.1
    pattern = "2:4"             # in place of density: two of each four, or "1:4"; for the
                                # tensor core, in which it doubles the speed, or takes it times 4
    banks = 16                  # with density: of every column equally many weights for each PE of
                                # an EIE array of 16, which then needs no pointers
    share_bits = 4              # 4: at most 15 values a layer beside zero; left out: no sharing
    data = "train.npz"          # arrays x and y; left out: one cut, no training
    epochs = 20                 # of training while pruning, and again while sharing
    learning_rate = 1e-3
    seed = 0                    # of the order of the samples
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from zeroskip.sw.compiler.frontend import require_torch
from zeroskip.sw.errors import BadInput
from zeroskip.sw.network import Conv2d, Network
from zeroskip.sw.prune.data import Data, accuracy, check_fits, read_data

PATTERNS = ("2:4", "1:4")


@dataclass(frozen=True)
class Recipe:
    """What to do with a network; raises BadInput with the name of a value that is wrong.

    Attributes
    ----------
    density : float or dict of float
        Fraction of the weights that stay, in (0, 1], for all layers or by layer name; a layer
        that a dict leaves out stays as it is.
    share_bits : int or None
        4 for at most 15 distinct values a layer beside zero; None for no sharing.
    data : Data or None
        Samples to train on; None prunes and shares without training.
    epochs : int
        Passes over the data while pruning, and again while sharing; at least 1.
    learning_rate : float
        First learning rate of each training, above 0.
    seed : int
        Of the order of the samples, 0 to 2**32 - 1.
    pattern : str or None
        ``"2:4"`` or ``"1:4"`` for all layers, in place of a density.
    banks : int or None
        PEs of an EIE array, each of which is to hold equally many weights of every column: the
        number that comes nearest to the density, at least one. Not more than a layer's outputs.
    """

    density: float | dict[str, float] | None = None
    share_bits: int | None = None
    data: Data | None = None
    epochs: int = 20
    learning_rate: float = 1e-3
    seed: int = 0
    pattern: str | None = None
    banks: int | None = None

    def __post_init__(self):
        self._check_banks()
        if (self.density is None) == (self.pattern is None):
            raise BadInput("a recipe has either density or pattern; give one of them, for example "
                           "density = 0.12.")
        _check(self.pattern in (None, *PATTERNS), "pattern",
               " or ".join(map(repr, PATTERNS)), self.pattern)
        named = isinstance(self.density, dict)
        densities = self.density.items() if named else [(None, self.density)]
        densities = [] if self.density is None else densities
        for layer, value in densities:
            name = f"density.{layer}" if named else "density"
            _check(_number(value) and 0 < value <= 1, name, "above 0 and at most 1", value)
        _check(self.share_bits is None or (_whole(self.share_bits) and self.share_bits == 4),
               "share_bits", "4, or left out", self.share_bits)
        if self.share_bits is not None and self.pattern is not None:
            raise BadInput("share_bits is for the EIE array and pattern for the tensor core; "
                           "remove one of them.")
        _check(_whole(self.epochs) and self.epochs >= 1, "epochs", "a whole number from 1",
               self.epochs)
        _check(_number(self.learning_rate) and 0 < self.learning_rate < float("inf"),
               "learning_rate", "a number above 0", self.learning_rate)
        _check(_whole(self.seed) and 0 <= self.seed < 2**32, "seed",
               "a whole number from 0 to 4294967295", self.seed)

    def _check_banks(self):
        if self.banks is None:
            return
        _check(_whole(self.banks) and self.banks >= 1, "banks", "a whole number from 1",
               self.banks)
        if self.pattern is not None:
            raise BadInput("banks is for the EIE array and pattern for the tensor core; remove "
                           "one of them.")
        if self.density is None:
            raise BadInput("banks needs a density, the fraction that each bank keeps; add for "
                           "example density = 0.12.")


@dataclass(frozen=True)
class Stage:
    """A network on its way: ``"dense"`` (as given), ``"pruned"``, ``"shared"``.

    ``density`` is the fraction of all weights that are not zero, ``accuracy`` the fraction of
    the recipe's samples that are classified correctly, None without data.
    """

    name: str
    network: Network
    density: float
    accuracy: float | None


def read_recipe(path: str | Path) -> Recipe:
    """Reads a recipe; ``data`` is a path from the folder of the recipe.

    Raises BadInput that names the unknown key, the wrong value or the line that is no TOML.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); "
                       "give the path of a recipe.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML ({error}); correct it there.") from error
    known = [field.name for field in fields(Recipe)]
    for key in values:
        if key not in known:
            raise BadInput(f"{path}: unknown key {key!r}; the keys are {', '.join(known)}.")
    if "data" in values:
        if not isinstance(values["data"], str):
            raise BadInput(f"{path}: data must be a path in quotes, not {values['data']!r}.")
        values["data"] = read_data(Path(path).parent / values["data"])
    else:
        for key in ("epochs", "learning_rate"):
            if key in values:
                raise BadInput(f"{path}: {key} needs data to train on; add data or remove {key}.")
    try:
        return Recipe(**values)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def run_recipe(
    network: Network,
    recipe: Recipe,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Network, list[Stage]]:
    """Prunes ``network`` and, if the recipe says so, shares its weights.

    Returns the final network and every stage. Raises BadInput where the recipe names a layer
    that the network does not have, its data do not fit, or a layer is a convolution or has fewer
    outputs than there are banks; ToolMissing without torch.
    """
    require_torch()
    from zeroskip.sw.compiler.torch_frontend import to_torch, with_weights
    from zeroskip.sw.prune import magnitude, nm
    from zeroskip.sw.prune.share import share
    from zeroskip.sw.prune.train import layers

    for layer in network.layers:
        if isinstance(layer, Conv2d) and recipe.share_bits is not None:
            raise BadInput(f"layer {layer.name} is a convolution, and the EIE array, which shares "
                           "weights, takes fully-connected layers only; remove share_bits.")
    if recipe.banks is not None:
        _check_divides(network, recipe)
    if recipe.data is not None:
        check_fits(recipe.data, network)
    module = to_torch(network)
    modules = dict(zip([layer.name for layer in network.layers], layers(module), strict=True))
    training = {"data": recipe.data, "epochs": recipe.epochs, "seed": recipe.seed,
                "learning_rate": recipe.learning_rate, "progress": progress}
    stages = [_stage("dense", network, recipe.data)]
    if recipe.pattern is None:
        magnitude.prune(module, _by_module(recipe.density, modules), banks=recipe.banks,
                        **training)
    else:
        nm.prune(module, recipe.pattern, **training)
    stages.append(_stage("pruned", with_weights(network, module), recipe.data))
    if recipe.share_bits is not None:
        # entry 0 of the codebook is the zero of the padding
        share(module, 2**recipe.share_bits - 1, **training)
        stages.append(_stage("shared", with_weights(network, module), recipe.data))
    return stages[-1].network, stages


def _check_divides(network, recipe):
    """Raises BadInput for the first layer to prune that has no row for each of the banks."""
    for layer in network.layers:
        if isinstance(recipe.density, dict) and layer.name not in recipe.density:
            continue
        if isinstance(layer, Conv2d):
            raise BadInput(f"layer {layer.name} is a convolution, and the EIE array, whose PEs "
                           "are the banks, takes fully-connected layers only; remove banks.")
        if layer.outputs < recipe.banks:
            raise BadInput(f"layer {layer.name} has {layer.outputs} outputs, too few for "
                           f"{recipe.banks} banks; lower banks, or leave the layer out of a "
                           "table of densities.")


def _by_module(density, modules):
    if not isinstance(density, dict):
        return density
    for name in density:
        if name not in modules:
            raise BadInput(f"density names the layer {name!r}, which the network does not have; "
                           f"its layers are {', '.join(modules)}.")
    return {modules[name]: value for name, value in density.items()}


def _stage(name, network, data):
    nonzero = sum(np.count_nonzero(layer.weight) for layer in network.layers)
    weights = sum(layer.weight.size for layer in network.layers)
    return Stage(name, network, float(nonzero / weights), data and accuracy(network, data))


def _check(good, name, expected, value):
    if not good:
        raise BadInput(f"{name} must be {expected}, not {value!r}.")


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)
