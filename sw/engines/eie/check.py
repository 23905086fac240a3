"""Whether the image of an EIE array holds together: the array could go wrong with anything else."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, NIBBLES
from zeroskip.sw.engines.checks import (
    check_chain,
    check_choice,
    check_range,
    check_scale,
    check_tensor,
)
from zeroskip.sw.engines.eie.directory import MOST, WORDS
from zeroskip.sw.engines.eie.schedule import MAX_STRIDE, directory_places, schedule

if TYPE_CHECKING:
    from zeroskip.sw.engines.eie.image import EIEImage

TENSORS = {"entries": np.uint8, "pointers": np.uint32, "biases": np.int32, "codebooks": np.int16,
           "order": np.int32}
"""The tensors of an image, and the type of each."""


def check_image(image: EIEImage) -> None:
    """Everything against everything else and the configuration; ``ValueError`` on a misfit."""
    _check_layers(image)
    _check_tensors(image)
    _check_order(image)
    _check_segments(image)
    _check_directory(image)


def _check_layers(image: EIEImage) -> None:
    config = image.config
    image.check_size()
    check_range("number of layers", len(image.layers), 1, config.codebooks)
    check_scale("input_scale", image.input.scale)
    for layer in image.layers:
        where = f"layer {layer.name}"
        check_choice(f"{where}: activation", layer.activation, ("none", "relu"))
        check_scale(f"{where}: output_scale", layer.output.scale)
        check_range(f"{where}: grouped", layer.grouped, 0, int(config.groups > 1))
        check_range(f"{where}: balanced", layer.balanced, 0,
                    int(config.escapes and not layer.grouped))
        check_range(f"{where}: stride", layer.stride, 1, MAX_STRIDE)
        if not layer.balanced:
            choices = tuple(MOST) if config.counts else (1,)
            check_choice(f"{where}: stride", layer.stride, choices)
        owners = layer.owners(config)
        check_range(f"{where}: inputs", *layer.input.shape, 1, config.act_depth * config.pes)
        check_range(f"{where}: outputs", *layer.output.shape, 1, config.act_depth * owners)
        check_range(f"{where}: slots", layer.slots, layer.outputs,
                    -(-layer.outputs // owners) * owners)
        for field in ("nonzeros", "entries", "padding"):
            check_range(f"{where}: {field}", getattr(layer, field), 0, image.entries.size)
    check_chain(image.layers)
    image.check_weights()
    for number, layer in enumerate(image.layers):
        if layer.balanced:
            check_range(f"layer {layer.name}: bytes of a pass",
                        layer.places(config, image.columns(number)), 0,
                        image.entries[:1].size)


def _check_tensors(image: EIEImage) -> None:
    config, entries = image.config, image.entries
    if entries.dtype != np.uint8 or entries.ndim != 2 or len(entries) != config.pes \
            or entries.shape[1] % ENTRIES_PER_ROW or entries.shape[1] > config.entries:
        raise ValueError(
            f"tensor 'entries' is {entries.dtype} {list(entries.shape)}, expected uint8 "
            f"[{config.pes}, 0 to {config.entries}] in whole rows of {ENTRIES_PER_ROW}")
    slots = [layer.slots for layer in image.layers]
    biases = sum(-(-each // config.clusters) for each in slots)
    places = directory_places(config, image.layers)
    numbers = places // NIBBLES * WORDS if config.counts else places
    for name, shape in (("pointers", (config.pes, numbers)),
                        ("biases", (config.clusters, biases)),
                        ("codebooks", (len(slots), 16)), ("order", (sum(slots),))):
        check_tensor(f"tensor '{name}'", getattr(image, name), TENSORS[name], shape)
    check_range("size of the column directory", places, 0, config.pointers)
    check_range("number of biases in a cluster", biases, 1, config.bias_depth)


def _check_order(image: EIEImage) -> None:
    start = 0
    for layer in image.layers:
        order = image.order[start:start + layer.slots]
        start += layer.slots
        if np.any(order < -1) or not np.array_equal(np.sort(order[order >= 0]),
                                                    np.arange(layer.outputs)):
            raise ValueError(f"layer {layer.name}: its order does not hold each of "
                             f"{layer.outputs} outputs once")


def _check_segments(image: EIEImage) -> None:
    check_range("number of segments", len(image.segments), 1, image.config.descriptors)
    expected = list(islice(schedule(image.config, image.layers), len(image.segments) + 1))
    if len(image.segments) != len(expected):
        raise ValueError(f"the list of {len(image.segments)} segments does not fit the "
                         f"{len(image.layers)} layers")
    banks = next((s.first for s in image.segments if s.balanced), 0)
    check_range("first byte of the bank-balanced layers", banks, 0, image.entries.shape[1])
    for at, (found, segment) in enumerate(zip(image.segments, expected, strict=True)):
        limits = {name: (value, value) for name, value in vars(segment).items()}
        limits["shift"] = 0, 31 * segment.swap
        if segment.balanced:
            limits["first"] = [segment.first + banks] * 2
        if found.outputs:
            limits["outputs"] = [image.layers[segment.codebook].slots * segment.swap] * 2
        for name, (least, most) in limits.items():
            check_range(f"segment {at}: {name}", getattr(found, name), least, most)


def _check_directory(image: EIEImage) -> None:
    for at, segment in enumerate(image.segments):
        if not segment.begin:
            continue
        starts, stops = image.spans(segment)
        if np.any(starts > stops) or np.any(starts[:, 1:] < stops[:, :-1]):
            raise ValueError(f"segment {at}: its columns overlap in the weight memory")
        if stops.max() > image.entries.shape[1]:
            raise ValueError(f"segment {at}: its columns leave the weight memory")
