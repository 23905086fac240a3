"""From quantised layers to the memory images of one EIE array."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, NIBBLES, EIEConfig
from zeroskip.sw.engines.eie.assign import assign_rows
from zeroskip.sw.engines.eie.directory import nibbles_for, pack_counts, words_for
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.pack import Packed, pack, spread, whole
from zeroskip.sw.engines.eie.quantize import HIGHEST, LOWEST, prove
from zeroskip.sw.engines.eie.schedule import (
    MAX_STRIDE,
    LayerInfo,
    directory_places,
    schedule,
)
from zeroskip.sw.errors import BadInput


class Misfit(BadInput):
    """A memory of the array is too small."""


BROADCAST_BOUND = 2
"""Mean entries per PE and column below which a layer is computed in groups. One broadcast a cycle
feeds all PEs, and their entries spread around the mean: with fewer, PEs wait for broadcasts."""


def compile_layers(layers: tuple[FixedLayer, ...], config: EIEConfig, *,
                   balance: bool = True) -> EIEImage:
    """Packs the layers for an array of this configuration.

    A layer whose rows, dealt out in turn, have nearly equal numbers of entries in every column
    and PE is stored without a column directory. Of any other, ``balance`` assigns the rows to
    PEs with equal work (:func:`zeroskip.sw.engines.eie.assign.assign_rows`); and with few entries
    per column it is computed in groups, if the array has groups. The segments are those of
    :func:`zeroskip.sw.engines.eie.schedule.schedule`.

    Raises
    ------
    BadInput
        If an accumulator could overflow; :class:`Misfit` if a memory is too small: all that are,
        with numbers.
    """
    prove_all(layers, config)
    placed, columns = [], np.arange(layers[0].indices.shape[1])
    stored = np.zeros(config.pes, np.int64)
    for layer in layers:
        placed.append(_place(layer, columns, stored, config, balance))
        columns = placed[-1].order
    return _image(layers, placed, config)


def prove_all(layers: tuple[FixedLayer, ...], config: EIEConfig) -> None:
    """Raises ``BadInput`` where an accumulator of consecutive layers could overflow."""
    for i, layer in enumerate(layers):
        low = LOWEST if i == 0 or layers[i - 1].activation != "relu" else 0
        prove(layer.name, layer.weight, layer.bias, layer.shift, low, HIGHEST, config.acc_width)


def compile_block(layer: FixedLayer, order: np.ndarray, groups: int, config: EIEConfig) -> EIEImage:
    """Packs one layer whose rows stand at the positions ``order`` (int32 [slots], -1 for none), in
    so many column groups; :class:`Misfit` if a memory is too small. Nothing is proved."""
    indices = take(layer.indices, order, axis=0)
    pattern = csr_array(indices != 0)
    banks = _banks(indices, pattern, config) if groups == 1 else []
    placed = _packed(layer, pattern.nnz, order, banks or pack_passes(indices, config, groups),
                     groups, np.zeros(config.pes, np.int64), config, balanced=bool(banks))
    return _image((layer,), [placed], config)


def _image(layers: tuple[FixedLayer, ...], placed: list["_Placed"], config: EIEConfig) -> EIEImage:
    memory = _Memory(config, placed)
    infos = tuple(each.info for each in placed)
    segments = list(schedule(config, infos))
    _check_fit(config, infos, memory.rows, len(segments))
    for at, segment in enumerate(segments):
        segments[at] = replace(
            segment, first=segment.first + segment.balanced * memory.banks,
            shift=segment.swap * layers[segment.codebook].shift)
    image = EIEImage(
        config=config,
        layers=infos,
        segments=tuple(segments),
        entries=memory.entries(),
        pointers=memory.directory(),
        biases=np.concatenate([_biases(layer, each.order, config.clusters)
                               for layer, each in zip(layers, placed, strict=True)], axis=1),
        codebooks=np.stack([layer.codebook for layer in layers]),
        order=np.concatenate([each.order for each in placed]),
    )
    image.check_weights()
    return image


_MEMORIES = ("weight_rows", "pointers", "act_depth", "bias_depth", "descriptors")


def deepened(config: EIEConfig) -> EIEConfig:
    """The array with memories for any network; too large to build, see :func:`cut`."""
    return _resized(config, **dict.fromkeys(_MEMORIES, 1 << 24))


def cut(image: EIEImage) -> EIEImage:
    """The image on memories just deep enough for it. An array's cycles do not depend on
    their depth."""
    config, layers = image.config, image.layers
    unit = NIBBLES if config.counts else 2
    return replace(image, config=_resized(
        config,
        weight_rows=max(2, image.entries.shape[1] // ENTRIES_PER_ROW),
        pointers=max(1, -(-directory_places(config, layers) // unit)) * unit,
        act_depth=max(2, _act_depth(config, layers)),
        bias_depth=max(2, image.biases.shape[1]),
        descriptors=max(2, len(image.segments))))


def _resized(config: EIEConfig, **memories: int) -> EIEConfig:
    """Blocks and passes of all activations stay so."""
    return replace(config, **memories, **{
        name: memories["act_depth"] for name in ("block", "acc_depth")
        if getattr(config, name) == config.act_depth})


def _act_depth(config: EIEConfig, layers: tuple[LayerInfo, ...]) -> int:
    """Words that vectors take in a PE, at most."""
    return max(-(-layers[0].inputs // config.pes), *(layer.words(config) for layer in layers))


def _check_fit(config: EIEConfig, layers: tuple[LayerInfo, ...], weight_rows: int,
               descriptors: int) -> None:
    """Every memory's need against what the configuration has."""
    biases = sum(-(-layer.slots // config.clusters) for layer in layers)
    needs = [
        ("64-bit weight rows per PE", weight_rows, config.weight_rows),
        ("nibbles of column counts per PE" if config.counts else "column pointers per PE",
         directory_places(config, layers), config.pointers),
        ("activations per PE and role", _act_depth(config, layers), config.act_depth),
        ("biases per cluster", biases, config.bias_depth),
        ("codebooks", len(layers), config.codebooks),
        ("descriptors", descriptors, config.descriptors),
    ]
    short = [f"{need} {what} (it has {has})" for what, need, has in needs if need > has]
    if short:
        raise Misfit(f"the network does not fit the configuration with {config.pes} PEs: it "
                     f"needs {', '.join(short)}; choose a larger target or prune more")


@dataclass(frozen=True, eq=False)
class _Placed:
    """A layer with its rows assigned, pass by pass packed: what the memories take.

    ``order`` is int32 [slots], the output at each physical position or -1 for none.
    """

    info: LayerInfo
    order: np.ndarray
    passes: list[Packed]


def _place(layer: FixedLayer, columns: np.ndarray, stored: np.ndarray, config: EIEConfig,
           balance: bool) -> _Placed:
    """Assigns and packs a layer whose columns are the inputs ``columns``, -1 for none. A layer
    with a directory begins at byte ``stored`` of each PE, which is moved behind it."""
    outputs, inputs = layer.indices.shape
    indices = take(layer.indices, columns, axis=1)
    pattern = csr_array(indices != 0)
    order, groups = np.arange(outputs, dtype=np.int32), 1
    passes = _banks(indices, pattern, config)
    balanced = bool(passes)
    if not balanced:
        if pattern.nnz < BROADCAST_BOUND * inputs * config.pes:
            groups = config.groups
        if balance:
            order = assign(pattern, config, groups)
        passes = pack_passes(take(indices, order, axis=0), config, groups)
    return _packed(layer, pattern.nnz, order, passes, groups, stored, config, balanced=balanced)


def _packed(layer: FixedLayer, nonzeros: int, order: np.ndarray, passes: list[Packed], groups: int,
            stored: np.ndarray, config: EIEConfig, *, balanced: bool) -> _Placed:
    if not balanced:
        for at, own in enumerate(passes):
            if config.escapes:
                passes[at] = whole(own, stored)
            stored += passes[at].starts[:, -1]
    longest = max(own.longest for own in passes)
    info = LayerInfo(
        layer.name, layer.activation, layer.input, layer.output, nonzeros,
        sum(own.size for own in passes), int(sum(own.padding.sum() for own in passes)),
        slots=len(order), grouped=int(groups > 1), balanced=int(balanced),
        stride=longest if balanced else directory_stride(layer.name, longest, config))
    return _Placed(info, order, passes)


def take(indices: np.ndarray, order: np.ndarray, axis: int) -> np.ndarray:
    """The rows or columns of ``indices`` that stand in ``order``, zeros for -1."""
    taken = np.take(indices, order, axis)
    taken[(slice(None),) * axis + (order < 0,)] = 0
    return taken


def pack_passes(indices: np.ndarray, config: EIEConfig, groups: int) -> list[Packed]:
    """The physical rows packed, ``acc_depth`` per PE at a time."""
    step = config.acc_depth * config.pes // groups
    return [pack(indices[start:start + step], config.pes, escapes=config.escapes, groups=groups)
            for start in range(0, len(indices), step)]


def _banks(indices: np.ndarray, pattern: csr_array, config: EIEConfig) -> list[Packed]:
    """The passes with all columns equally long, rows in order; none where that takes more bits
    than shorter columns and a directory, as it does unless a mask was made for it."""
    columns = indices.shape[1]
    if not config.escapes or not pattern.nnz:
        return []
    # A look at the busiest column of any PE spares most layers the packing.
    row = np.repeat(np.arange(len(indices)), np.diff(pattern.indptr))
    turn, pe = np.divmod(row, config.pes)
    bank = turn // config.acc_depth * config.pes + pe
    banks = -(-len(indices) // (config.acc_depth * config.pes)) * config.pes
    counts = np.bincount(bank * columns + pattern.indices, minlength=banks * columns)
    if counts.max() * counts.size > 2 * pattern.nnz:
        return []
    passes = pack_passes(indices, config, 1)
    stride = max(own.longest for own in passes)
    if stride > MAX_STRIDE:
        return []
    even = [spread(own, stride) for own in passes]
    # An address is as wide as this layer needs: the choice does not depend on the memories.
    address = int(sum(own.starts[:, -1].astype(np.int64) for own in passes).max()).bit_length()
    each = columns * address
    if config.counts:
        each = words_for(columns, nibbles_for(stride)) * (4 * NIBBLES + address)
    directory = len(passes) * config.pes * each
    filled = 8 * sum(long.size - own.size for long, own in zip(even, passes, strict=True))
    return even if filled <= directory else []


def assign(pattern: csr_array, config: EIEConfig, groups: int) -> np.ndarray:
    """The order of the rows, int32 [slots]; the rows of each pass are assigned for themselves."""
    clusters, orders = config.pes // groups, []
    step = config.acc_depth * clusters
    for start in range(0, pattern.shape[0], step):
        order = assign_rows(pattern[start:start + step], clusters, groups)
        orders.append(np.where(order < 0, order, order + np.int32(start)))
    return np.concatenate(orders)


def directory_stride(name: str, longest: int, config: EIEConfig) -> int:
    """Places of a column in the directory: the nibbles of a count, or one pointer."""
    if not config.counts:
        return 1
    try:
        return nibbles_for(longest)
    except BadInput as error:
        raise Misfit(f"layer {name}: {error}") from None


def _biases(layer: FixedLayer, order: np.ndarray, clusters: int) -> np.ndarray:
    """Bias plus rounding constant of every slot, int32 [clusters, slots]."""
    biases = np.full(-(-len(order) // clusters) * clusters, (1 << layer.shift) >> 1, np.int64)
    held = np.flatnonzero(order >= 0)
    biases[held] += layer.bias[order[held]]
    return biases.reshape(-1, clusters).T.astype(np.int32)


class _Memory:
    """Weight memories and column directories as they fill, pass by pass.

    The bank-balanced layers come last: those with a directory lie one after another in each PE,
    and a pointer that ends one layer starts the next.
    """

    def __init__(self, config: EIEConfig, placed: list[_Placed]):
        self.config = config
        self.stored = np.zeros(config.pes, np.int64)
        self._written: list[tuple[np.ndarray, Packed]] = []
        self._directory: list[np.ndarray] = []
        for each in placed:
            if not each.info.balanced:
                self._add(each)
        if self._directory and not config.counts:
            self._directory.append(self.stored[:, None].copy())
        self.banks = int(self.stored.max())
        self.stored[:] = self.banks
        for each in placed:
            if each.info.balanced:
                self._add(each)

    def _add(self, placed: _Placed) -> None:
        for own in placed.passes:
            starts = own.starts + self.stored[:, None]
            if not placed.info.balanced:
                self._directory.append(pack_counts(starts, placed.info.stride)
                                       if self.config.counts else starts[:, :-1])
            self._written.append((self.stored.copy(), own))
            self.stored = starts[:, -1]

    @property
    def rows(self) -> int:
        """64-bit rows of the longest weight memory."""
        return -(-int(self.stored.max()) // ENTRIES_PER_ROW)

    def entries(self) -> np.ndarray:
        """The weight memories, whole rows: uint8 [pes, bytes]."""
        memory = np.zeros((self.config.pes, self.rows * ENTRIES_PER_ROW), np.uint8)
        for starts, packed in self._written:
            for mine, start, own in zip(memory, starts, packed.entries, strict=True):
                mine[start:start + len(own)] = own
        return memory

    def directory(self) -> np.ndarray:
        """The column directories: uint32 [pes, n]."""
        empty = np.zeros((self.config.pes, 0))
        return np.concatenate([empty, *self._directory], axis=1).astype(np.uint32)
