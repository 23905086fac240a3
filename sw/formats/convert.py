"""Sparse matrices in files of tensors: dense, or in one of the packed forms.

===========  ===============================================  ===============
form         tensors of a matrix ``fc.weight``                described in
===========  ===============================================  ===============
``torch``    ``fc.weight.values``, ``fc.weight.metadata``     ``torch24.py``
``ptx``      the same, metadata in row-major words            ``metadata.py``
``bitmask``  ``fc.compressed``, ``fc.bitmask``, ``fc.shape``  ``bitmask.py``
===========  ===============================================  ===============

Names of ``bitmask`` are those of compressed-tensors, which leaves a last ``.weight`` out. The
file's metadata say, under ``zeroskip.packed``, which tensors are packed: a JSON object ``{"form":
..., "tensors": {name: {"dtype": ..., "pattern": ...}}}``. Files of compressed-tensors itself have
no such entry; they are known by their names.
"""

import json
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import metadata as meta
from zeroskip.sw.formats.bitmask import from_bitmask, to_bitmask
from zeroskip.sw.formats.nm import DTYPES as SPARSE
from zeroskip.sw.formats.nm import compress, decompress
from zeroskip.sw.formats.tensorfile import parse_json
from zeroskip.sw.formats.tensors import DTYPES, Tensor
from zeroskip.sw.formats.torch24 import from_torch, to_torch

PACKED = ("torch", "ptx", "bitmask")
FORMS = (*PACKED, "dense")
KEY = "zeroskip.packed"
_PARTS = {"torch": ("values", "metadata"), "ptx": ("values", "metadata"),
          "bitmask": ("compressed", "bitmask", "shape")}
_MATRICES = tuple(name for name, dtype in DTYPES.items() if dtype in SPARSE)


@dataclass(frozen=True)
class Row:
    """What became of one tensor.

    ``form`` is what it was, ``pattern`` that of the new form, None where the tensor is not packed,
    ``reason`` why it is not, though a packed form was asked for; the sizes are in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    form: str
    converted: bool
    pattern: str | None
    reason: str | None
    bytes_in: int
    bytes_out: int


def convert(metadata: dict[str, str], tensors: dict[str, Tensor], to: str,
            ) -> tuple[dict[str, str], dict[str, Tensor], tuple[Row, ...]]:
    """Metadata and tensors in the form ``to``, one of ``FORMS``; a row for every dense tensor.

    Every matrix of a type in ``nm.DTYPES`` that has the form's pattern and shape is converted, all
    else stays as it is, or becomes dense where it was packed in another form; its row says why.
    Raises :class:`BadInput`, which names the tensor, for what is packed and cannot be read, and
    where two tensors would have one name.
    """
    if to not in FORMS:
        raise BadInput(f"there is no form '{to}'; choose one of {', '.join(FORMS)}")
    dense, sources = _unpack(metadata, tensors)
    result, packed, rows = {}, {}, []
    for name in sorted(dense):
        tensor = dense[name]
        form, size = sources.get(name, ("dense", len(tensor.data)))
        new, pattern, reason = {name: tensor}, None, None
        if to != "dense" and not (reason := _unfit(tensor)):
            try:
                kind = _pattern(tensor, to)
                new, pattern = _pack(name, tensor.array(), to, kind), kind
                packed[name] = {"dtype": tensor.dtype, "pattern": pattern}
            except BadInput as error:
                reason = str(error)
        for part in sorted(new.keys() & result.keys()):
            raise BadInput(f"two tensors would be called '{part}'; rename '{name}'")
        result |= new
        rows.append(Row(name, tensor.dtype, tensor.shape, form, form != "dense" or name in packed,
                        pattern, reason, size, sum(len(part.data) for part in new.values())))
    metadata = {key: text for key, text in metadata.items() if key != KEY}
    if packed:
        metadata[KEY] = json.dumps({"form": to, "tensors": packed}, sort_keys=True)
    return metadata, result, tuple(rows)


@contextmanager
def _named(name: str):
    """Puts a tensor's name before the message of a :class:`BadInput`."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"tensor '{name}': {error}") from None


def _unfit(tensor: Tensor) -> str | None:
    """Why a tensor has no packed form, whatever its values; None where it may have one."""
    if tensor.dtype not in _MATRICES:
        return f"its type is {tensor.dtype}, and only {', '.join(_MATRICES)} have packed forms"
    if len(tensor.shape) != 2:
        return f"it is {list(tensor.shape)}, and only matrices [rows, columns] have packed forms"
    return None if tensor.data else "it is empty"


def _pattern(tensor: Tensor, form: str) -> str:
    return "2:4" if form == "bitmask" else meta.pattern_of(DTYPES[tensor.dtype])


def _part_names(name: str, form: str) -> dict[str, str]:
    """The names of a matrix's tensors, by part."""
    stem = name.removesuffix(".weight") if form == "bitmask" else name
    return {part: f"{stem}.{part}" for part in _PARTS[form]}


def _pack(name: str, weight: np.ndarray, form: str, pattern: str) -> dict[str, Tensor]:
    """The tensors of one matrix."""
    compressed = compress(weight, pattern)
    if form == "torch":
        parts = to_torch(compressed)
    elif form == "ptx":
        word = meta.word_type(weight.dtype)
        parts = compressed.values, meta.to_words(meta.nibbles(compressed), word)
    else:
        parts = *to_bitmask(compressed), np.array(weight.shape, np.int64)[:, None]
    names = _part_names(name, form).values()
    return {part: Tensor.of(array) for part, array in zip(names, parts, strict=True)}


def _unpack(metadata: dict[str, str], tensors: dict[str, Tensor],
            ) -> tuple[dict[str, Tensor], dict[str, tuple[str, int]]]:
    """All tensors dense, and of those that were packed the form and the size in bytes."""
    dense, sources = dict(tensors), {}
    for name, (form, described) in _find(metadata, tensors).items():
        parts = {}
        for part, full in _part_names(name, form).items():
            if full not in dense:
                raise BadInput(f"tensor '{full}' is missing, which '{name}' needs in the form "
                               f"{form}; convert the dense file again")
            parts[part] = dense.pop(full)
        with _named(name):
            _check_described(form, parts[_PARTS[form][0]], described)
            weight = _read(form, {part: tensor.array() for part, tensor in parts.items()})
        if name in tensors:
            raise BadInput(f"tensor '{name}' is there both dense and in the form {form}; remove "
                           "one of the two")
        dense[name] = Tensor.of(weight)
        sources[name] = form, sum(len(tensor.data) for tensor in parts.values())
    return dense, sources


def _find(metadata: dict[str, str], tensors: dict[str, Tensor]) -> dict[str, tuple[str, dict]]:
    """Form and description of every packed matrix, by its name."""
    form, described = _entry(metadata)
    found = {name: (form, described[name]) for name in described}
    known = {full for name in found for full in _part_names(name, form).values()}
    for full in sorted(tensors.keys() - known):
        stem, _, part = full.rpartition(".")
        if part in ("compressed", "bitmask"):
            found[f"{stem}.weight"] = "bitmask", {}
        elif part == "metadata" and f"{stem}.values" in tensors:
            raise BadInput(f"tensors '{stem}.values' and '{full}' are packed, but the file's "
                           f"metadata do not say under {KEY} how; convert the dense file again")
    return found


def _entry(metadata: dict[str, str]) -> tuple[str, dict[str, dict]]:
    """Form and descriptions in the file's metadata; both empty where it has no packed tensors."""
    if KEY not in metadata:
        return "", {}
    try:
        entry = parse_json(metadata[KEY])
        form, described = entry["form"], entry["tensors"]
        if form not in PACKED:
            raise ValueError(f"there is no form {form!r}")
        return form, {name: {key: own[key] for key in ("dtype", "pattern")}
                      for name, own in described.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"the metadata under {KEY} are not readable ({error}); convert the dense "
                       "file again") from None


def _check_described(form: str, values: Tensor, described: dict) -> None:
    """Refuses values of another type or pattern than the file's metadata say."""
    actual = {"dtype": values.dtype}
    if values.dtype in _MATRICES:
        actual["pattern"] = _pattern(values, form)
    for key, found in actual.items():
        if described.get(key, found) != found:
            raise BadInput(f"its {key} is {found}, but the file's metadata say {described[key]}; "
                           "convert the dense file again")


def _read(form: str, parts: dict[str, np.ndarray]) -> np.ndarray:
    """The dense matrix of the tensors of one matrix."""
    if form == "torch":
        return decompress(from_torch(**parts))
    if form == "ptx":
        return decompress(meta.read(parts["values"], parts["metadata"]))
    values, shape = parts["compressed"], parts["shape"]
    if shape.dtype != np.int64 or shape.size != 2 or values.shape[:1] != (shape.flat[0],):
        raise BadInput(f"its shape is {shape.dtype} {shape.ravel().tolist()}, expected int64 "
                       f"[{', '.join(map(str, values.shape[:1]))}, columns]; compress the matrix "
                       "again")
    return decompress(from_bitmask(values, parts["bitmask"], int(shape.flat[1])))
