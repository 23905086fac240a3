"""Pruning by recipe: one TOML file, checked, that says everything about a run.

::

    density = 0.12              # fraction of the weights that stay; or a table, by layer:
                                # [density]
                                # fc1 = 0.1
    granularity = "element"     # what stays or goes together, as in prune/granularity.py: also
                                # vector, block, kernel, row; banks, for an EIE array; 2:4, 1:4
                                # and 4:8, which need no density: the first two are those of the
                                # tensor core. Or channel, neuron, as in prune/structure.py: filters
                                # and outputs leave the network, those of its last layer excepted
    size = 4                    # of a vector, of a block's side; of banks: the PEs of the array
    criterion = "l1"            # which weights go first, as in prune/criteria.py: also l2, scale,
                                # apoz, wanda, obd
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
from zeroskip.sw.network import Conv2d, Linear, Network
from zeroskip.sw.prune.data import Data, accuracy, check_fits, read_data
from zeroskip.sw.prune.granularity import granularity

STRUCTURAL = {"channel": Conv2d, "neuron": Linear}
"""Granularities whose units leave the network, and the layers that lose them."""


@dataclass(frozen=True)
class Recipe:
    """What to do with a network; raises BadInput with the name of a value that is wrong.

    Attributes
    ----------
    density : float or dict of float, or None
        Fraction of the weights that stay, in (0, 1], for all layers or by layer name; a layer
        that a dict leaves out stays as it is. None for N:M, which is for all layers.
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
    granularity, size
        As of :func:`zeroskip.sw.prune.granularity.granularity`, or a key of ``STRUCTURAL``.
    criterion : str
        A key of :data:`zeroskip.sw.prune.criteria.CRITERIA`.
    """

    density: float | dict[str, float] | None = None
    granularity: str = "element"
    size: int | None = None
    criterion: str = "l1"
    share_bits: int | None = None
    data: Data | None = None
    epochs: int = 20
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self):
        fixed = self._check_granularity()
        self._check_density(fixed)
        _check(isinstance(self.criterion, str), "criterion", "a name in quotes", self.criterion)
        _check(self.share_bits is None or (_whole(self.share_bits) and self.share_bits == 4),
               "share_bits", "4, or left out", self.share_bits)
        if self.share_bits is not None and fixed:
            raise BadInput(f"share_bits is for the EIE array and {self.granularity} for the tensor "
                           "core; remove one of them.")
        _check(_whole(self.epochs) and self.epochs >= 1, "epochs", "a whole number from 1",
               self.epochs)
        _check(_number(self.learning_rate) and 0 < self.learning_rate < float("inf"),
               "learning_rate", "a number above 0", self.learning_rate)
        _check(_whole(self.seed) and 0 <= self.seed < 2**32, "seed",
               "a whole number from 0 to 4294967295", self.seed)

    def _check_granularity(self) -> bool:
        """Whether the granularity says how many weights stay."""
        if self.granularity not in tuple(STRUCTURAL):
            return granularity(self.granularity, self.size).density is not None
        if self.size is not None:
            raise BadInput(f"granularity {self.granularity!r} takes no size; remove {self.size!r}.")
        return False

    def _check_density(self, fixed):
        if fixed:
            if self.density is not None:
                raise BadInput(f"granularity {self.granularity!r} says how many weights stay; "
                               "remove density.")
            return
        if self.density is None:
            raise BadInput("a recipe needs a density, or a granularity that says how many weights "
                           "stay; add for example density = 0.12.")
        named = isinstance(self.density, dict)
        for layer, value in self.density.items() if named else [(None, self.density)]:
            _check(_number(value) and 0 < value <= 1, f"density.{layer}" if named else "density",
                   "above 0 and at most 1", value)


@dataclass(frozen=True)
class Stage:
    """A network on its way: ``"dense"`` (as given), ``"pruned"``, ``"shared"``.

    ``density`` is the fraction of the dense network's weights that are there and not zero,
    ``accuracy`` that of the recipe's samples which are classified correctly, None without data.
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
    that the network does not have, its data do not fit, or a layer cannot be pruned or shared as
    it says; ToolMissing without torch.
    """
    require_torch()
    from zeroskip.sw.compiler.torch_frontend import to_torch, with_weights
    from zeroskip.sw.prune.cut import prune, remove
    from zeroskip.sw.prune.share import share
    from zeroskip.sw.prune.train import layers

    for layer in network.layers:
        if isinstance(layer, Conv2d) and recipe.share_bits is not None:
            raise BadInput(f"layer {layer.name} is a convolution, and the EIE array, which shares "
                           "weights, takes fully-connected layers only; remove share_bits.")
    densities = _by_layer(network, recipe)
    units = None
    if recipe.granularity not in STRUCTURAL:
        units = granularity(recipe.granularity, recipe.size)
        for layer in network.layers:
            if layer.name in densities:
                units.check(f"layer {layer.name}", layer.weight.shape)
    if recipe.data is not None:
        check_fits(recipe.data, network)
    module = to_torch(network)
    names = dict(zip([layer.name for layer in network.layers], layers(module), strict=True))
    densities = {names[name]: density for name, density in densities.items()}
    training = {"data": recipe.data, "epochs": recipe.epochs, "seed": recipe.seed,
                "learning_rate": recipe.learning_rate, "progress": progress}
    stages = [_stage("dense", network, network, recipe.data)]
    if units is None:
        module = remove(module, recipe.granularity, densities, criterion=recipe.criterion,
                        inputs=network.inputs, **training)
    else:
        prune(module, units, densities, criterion=recipe.criterion, **training)
    stages.append(_stage("pruned", network, with_weights(network, module), recipe.data))
    if recipe.share_bits is not None:
        # entry 0 of the codebook is the zero of the padding
        share(module, 2**recipe.share_bits - 1, **training)
        stages.append(_stage("shared", network, with_weights(network, module), recipe.data))
    return stages[-1].network, stages


def _by_layer(network, recipe) -> dict[str, float | None]:
    """The density of every layer to prune, by its name in the network."""
    named, kind = isinstance(recipe.density, dict), STRUCTURAL.get(recipe.granularity)
    names = [layer.name for layer in network.layers]
    units = [layer.name for layer in network.layers[:-1] if kind and isinstance(layer, kind)]
    if kind and not units:
        raise BadInput(f"no layer but the last has units of granularity {recipe.granularity!r}; "
                       "choose another.")
    for name in recipe.density if named else ():
        if name not in names:
            raise BadInput(f"density names the layer {name!r}, which the network does not have; "
                           f"its layers are {', '.join(names)}.")
        if kind and name not in units:
            raise BadInput(f"layer {name} has no {recipe.granularity} that could go: those of the "
                           f"last layer stay; leave it out, or choose from {', '.join(units)}.")
    return recipe.density if named else dict.fromkeys(units or names, recipe.density)


def _stage(name, dense, network, data):
    nonzero, weights = (sum(count(layer.weight) for layer in each.layers)
                        for each, count in ((network, np.count_nonzero), (dense, np.size)))
    return Stage(name, network, float(nonzero / weights), data and accuracy(network, data))


def _check(good, name, expected, value):
    if not good:
        raise BadInput(f"{name} must be {expected}, not {value!r}.")


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)
