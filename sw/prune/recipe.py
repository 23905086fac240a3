"""A recipe: one TOML file, checked, that says everything about a pruning run.

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
    criterion = "l1"            # which weights go first: any of prune/criteria.py that needs no
                                # batch norm; of channels and neurons also lasso
    reconstruct = "sparsegpt"   # how the weights that stay make up for those that go, as in
                                # prune/reconstruct.py: also least_squares. One cut
    rounds = 5                  # cuts, each followed by training; left out: bit by bit while
                                # training goes on
    rewind = "start.onnx"       # the model whose weights those that stay take back at each cut
    l1 = 1e-5                   # what the loss gains by each |w|, and
    l2 = 1e-4                   # by each w^2, while pruning
    centroids = 15              # values a layer beside zero, shared by k-means: 15 for the EIE
                                # array, 16 where zero needs no code; left out: no sharing
    weight_bits = 4             # of integers, one scale an output: 4 or 8; left out: floats
    data = "train.npz"          # arrays x and y, or by the names of the model's inputs; left out:
                                # one cut, no training
    loss = "mse"                # what training makes small; left out: cross_entropy, of classes.
                                # Where mse finds no y, the outputs should be the inputs
    epochs = 20                 # of training at each cut, or in all; again while sharing, rounding;
                                # 0: none
    learning_rate = 1e-3
    seed = 0                    # of the order of the samples
"""

import json
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.criteria import CRITERIA
from zeroskip.sw.prune.data import Data, read_data
from zeroskip.sw.prune.granularity import PATTERNS, granularity

LENGTH, WIDTH, DOTS = 1 << 17, 1000, 120
"""Most bytes of a recipe, and most characters and dots of a line."""

STRUCTURAL = {"channel": "convolution", "neuron": "linear"}
"""Granularities whose units leave the network, and the kind of layers that lose them."""

LOSSES = ("cross_entropy", "mse")

CRITERION_NEEDS_DATA = {name: each.needs_data for name, each in CRITERIA.items()
                        if each.needs != "norm"} | {"lasso": True}
"""Criteria of a recipe, and whether they need samples: those of :mod:`zeroskip.sw.prune.criteria`
but for any that needs a batch norm, for a network has none; and the LASSO's."""

RECONSTRUCTIONS = ("least_squares", "sparsegpt")

NEED_DATA = ("reconstruct", "rounds", "rewind", "l1", "l2", "loss", "epochs", "learning_rate")
"""Keys that say nothing without samples; so do the criteria behind the first two."""


@dataclass(frozen=True)
class Recipe:
    """What to do with a network; raises BadInput with the name of a value that is wrong.

    Attributes
    ----------
    density : float or dict of float, or None
        Fraction of the weights that stay, in (0, 1], for all layers or by layer name; a layer
        that a dict leaves out stays as it is. None for N:M, which is for all layers.
    granularity, size
        As of :func:`zeroskip.sw.prune.granularity.granularity`, or a key of ``STRUCTURAL``.
    criterion : str
        A key of ``CRITERION_NEEDS_DATA``; ``"lasso"`` with ``STRUCTURAL``.
    reconstruct : str or None
        One of ``RECONSTRUCTIONS``; ``"sparsegpt"`` has a criterion of its own.
    rounds : int or None
        Cuts with training after each, from 1; None for a density that falls while training.
    rewind : str or None
        Path of the model whose weights survivors take back at each of the ``rounds``.
    l1, l2 : float
        Penalty by each weight's absolute value and by its square, 0 or more.
    centroids : int or None
        15 or 16 distinct values a layer beside zero; None for no sharing.
    weight_bits : int or None
        4 or 8, of integers with a scale per output; None for floats.
    data : str or None
        Path of the samples, as :meth:`samples` reads it.
    loss : str
        One of ``LOSSES``, or ``module:function``, which no file may say.
    epochs : int
        Passes over the data, from 0; of each round, of the sharing and of the rounding.
    learning_rate : float
        First learning rate of each training, above 0.
    seed : int
        Of the order of the samples, 0 to 2**32 - 1.
    """

    density: float | dict[str, float] | None = None
    granularity: str = "element"
    size: int | None = None
    criterion: str = "l1"
    reconstruct: str | None = None
    rounds: int | None = None
    rewind: str | None = None
    l1: float = 0.0
    l2: float = 0.0
    centroids: int | None = None
    weight_bits: int | None = None
    data: str | None = None
    loss: str = "cross_entropy"
    epochs: int = 20
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self):
        self._check_density(self._check_granularity())
        if self.criterion not in list(CRITERION_NEEDS_DATA):
            raise BadInput(f"there is no criterion {self.criterion!r}; choose one of "
                           f"{', '.join(CRITERION_NEEDS_DATA)}.")
        _check(self.rounds is None or _whole(self.rounds, 1), "rounds", "a whole number from 1",
               self.rounds)
        _check(self.loss in LOSSES or (isinstance(self.loss, str) and ":" in self.loss), "loss",
               f"{' or '.join(LOSSES)}, or module:function", self.loss)
        for name in ("rewind", "data"):
            value = getattr(self, name)
            _check(value is None or isinstance(value, str), name, "a path in quotes", value)
        for name in ("l1", "l2"):
            value = getattr(self, name)
            _check(_number(value) and 0 <= value < float("inf"), name, "a number from 0", value)
        for name, choices in (("reconstruct", (None, *RECONSTRUCTIONS)),
                              ("centroids", (None, 15, 16)), ("weight_bits", (None, 4, 8))):
            value = getattr(self, name)
            _check(value in choices and not isinstance(value, float), name,
                   " or ".join(str(each) for each in choices if each) + ", or left out", value)
        _check(_whole(self.epochs, 0), "epochs", "a whole number from 0", self.epochs)
        _check(_number(self.learning_rate) and 0 < self.learning_rate < float("inf"),
               "learning_rate", "a number above 0", self.learning_rate)
        _check(_whole(self.seed, 0) and self.seed < 2**32, "seed",
               "a whole number from 0 to 4294967295", self.seed)
        self._check_together()

    @property
    def structural(self) -> bool:
        """Whether units leave the network."""
        return self.granularity in tuple(STRUCTURAL)

    @property
    def patterned(self) -> bool:
        """Whether the granularity says how many weights stay."""
        return not self.structural and granularity(self.granularity, self.size).density is not None

    def samples(self, folder: Path) -> Data | None:
        """What ``data`` names, a path from ``folder``; raises BadInput where it cannot be used."""
        return None if self.data is None else read_data(folder / self.data)

    def to_toml(self) -> str:
        """The recipe as a file: what is not at its default. :func:`read_recipe` reads it, unless
        it has keys for data that it does not name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)
                  if getattr(self, field.name) != field.default}
        table = values.pop("density") if isinstance(self.density, dict) else {}
        lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
        if table:
            lines += ["", "[density]", *(f"{_toml(key)} = {_toml(value)}"
                                         for key, value in table.items())]
        return "\n".join(lines) + "\n"

    def _check_granularity(self) -> bool:
        """Whether the granularity says how many weights stay."""
        if not self.structural:
            return self.patterned
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
        if self.density == {}:
            raise BadInput("the table density names no layer; add one, or a number for all.")
        named = isinstance(self.density, dict)
        for layer, value in self.density.items() if named else [(None, self.density)]:
            _check(_number(value) and 0 < value <= 1, f"density.{layer}" if named else "density",
                   "above 0 and at most 1", value)

    def _check_together(self):
        """Raises BadInput where two keys do not go together."""
        if self.centroids is not None and self.patterned:
            raise BadInput(f"centroids are for the EIE array and {self.granularity} for the tensor "
                           "core; remove one of them.")
        if self.centroids is not None and self.weight_bits is not None:
            raise BadInput("weights are shared or rounded to integers, not both; remove centroids "
                           "or weight_bits.")
        if self.rewind is not None and self.rounds is None:
            raise BadInput("rewind goes back at each of several cuts; add for example rounds = 5.")
        at_once = {"granularity": self.granularity if self.structural or self.patterned else None,
                   "reconstruct": self.reconstruct}
        for key, value in at_once.items():
            if value is not None and self.rounds is not None:
                raise BadInput(f"{key} {value!r} cuts once; remove rounds.")
        if self.criterion == "lasso" and not self.structural:
            raise BadInput(f"criterion 'lasso' is for {' and '.join(STRUCTURAL)}, not for "
                           f"granularity {self.granularity!r}; choose another.")
        if self.reconstruct == "sparsegpt":
            if self.granularity != "element" and not self.patterned:
                raise BadInput("reconstruct 'sparsegpt' is for granularity 'element', 2:4, 1:4 and "
                               f"4:8, not for {self.granularity!r}; take 'least_squares'.")
            if self.criterion != "l1":
                raise BadInput("reconstruct 'sparsegpt' has a criterion of its own; remove "
                               f"criterion {self.criterion!r}.")


def read_recipe(path: str | Path, density: float | None = None, *, data: Path | None = None,
                loss: str | None = None) -> Recipe:
    """Reads a recipe; ``density``, if given, stands for what the file says, unless the granularity
    says it; so do ``data``, from the working directory, and ``loss``.

    Raises BadInput that names the unknown key, the wrong value or the line that is no TOML.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LENGTH + 1)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); "
                       "give the path of a recipe.") from error
    try:
        values = _toml_values(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid TOML ({error}); correct it there.") from error
    known = [field.name for field in fields(Recipe)]
    if loss is None and ":" in str(values.get("loss", "")):
        raise BadInput(f"{path}: a recipe runs no Python; give {values['loss']!r} by --loss.")
    given = {"data": data and Path(os.path.relpath(data, Path(path).parent)).as_posix(),
             "loss": loss}
    values |= {key: value for key, value in given.items() if value is not None}
    for key in values:
        if key not in known:
            raise BadInput(f"{path}: unknown key {key!r}; the keys are {', '.join(known)}.")
        if key in NEED_DATA and "data" not in values:
            raise BadInput(f"{path}: {key} needs data to work with; add data or remove {key}.")
    if density is not None and values.get("granularity") not in list(PATTERNS):
        values["density"] = density
    try:
        recipe = Recipe(**values)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    if CRITERION_NEEDS_DATA[recipe.criterion] and recipe.data is None:
        raise BadInput(f"{path}: criterion {recipe.criterion!r} needs data to work with; add data "
                       "or take l1.")
    return recipe


def _toml_values(content: bytes) -> dict:
    """What a TOML file says; ``ValueError`` where it is none, or larger than any recipe.

    ``tomllib`` takes time and memory by the square of a key's parts.
    """
    if len(content) > LENGTH:
        raise ValueError(f"it has more than {LENGTH:,} bytes")
    text = content.decode()
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > WIDTH or line.count(".") > DOTS:
            raise ValueError(f"line {number} has {len(line):,} characters and {line.count('.'):,} "
                             f"dots, at most {WIDTH:,} and {DOTS} are read")
    values = tomllib.loads(text)
    for key, value in values.items():
        for own in value.values() if isinstance(value, dict) else [value]:
            if isinstance(own, int) and abs(own) >= 1 << 63:
                raise ValueError(f"{key} is an integer of more than 64 bits")
    return values


def _check(good, name, expected, value):
    if not good:
        raise BadInput(f"{name} must be {expected}, not {value!r}.")


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _toml(value) -> str:
    """A value of a recipe in TOML, whose strings and numbers JSON's are too."""
    return json.dumps(value, ensure_ascii=False)
