"""Safetensors files with text in their metadata."""

import json
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write

JSON_LENGTH = 1 << 24
"""Most characters of JSON in a file: over a hundred thousand tensors."""
JSON_DEPTH = 32
"""Most levels of nesting."""
JSON_DIGITS = 100
"""Most characters of a number: float64 takes 25."""


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes contiguous ``tensors``; what is equal makes equal files."""
    write(path, safetensors(tensors, metadata))


def safetensors(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The file of contiguous ``tensors``; what is equal makes equal files."""
    content = save_tensors(tensors, metadata)
    # safetensors writes the metadata in any order
    start = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file; :class:`BadInput` if it is none."""
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: this is a folder; give the path of a file")
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file; give the path of an existing one")
    content = path.read_bytes()
    try:
        header = parse_json(header_of(content))
        metadata = header.get("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not an object")
        return metadata, load_tensors(content)
    except (SafetensorError, ValueError, AttributeError, KeyError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({error}); it is truncated, "
                       "damaged or of another kind") from None


def header_of(content: bytes) -> str:
    """The JSON text with which a safetensors file begins."""
    return content[8:8 + int.from_bytes(content[:8], "little")].decode()


def parse_json(text: str):
    """JSON in which a key may stand only once per object; ``ValueError`` otherwise, and where
    its length, its nesting or a number is beyond all reason."""
    if len(text) > JSON_LENGTH:
        raise ValueError(f"its {len(text):,} characters are more than {JSON_LENGTH:,}")
    depth = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', text, re.DOTALL):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > JSON_DEPTH:
            raise ValueError(f"it is nested deeper than {JSON_DEPTH} levels")
    return json.loads(text, object_pairs_hook=_unique, parse_int=_short(int),
                      parse_float=_short(float))


def _unique(pairs: list[tuple]) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _short(number):
    """``number``, int or float, of a text that is not too long."""
    def parse(text: str):
        if len(text) > JSON_DIGITS:
            raise ValueError(f"a number has {len(text)} characters")
        return number(text)
    return parse
