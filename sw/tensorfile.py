"""Safetensors files with text in their metadata."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes contiguous ``tensors``; what is equal makes equal files."""
    content = save_tensors(tensors, metadata)
    # safetensors writes the metadata in any order
    start = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    write(path, len(text).to_bytes(8, "little") + text + content[start:])


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file; :class:`BadInput` if it is none."""
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: this is a folder; give the path of a file")
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file; give the path of an existing one")
    content = path.read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        header = parse_json(content[8:8 + length].decode())
        metadata = header.get("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not an object")
        return metadata, load_tensors(content)
    except (SafetensorError, ValueError, AttributeError, KeyError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({error}); it is truncated, "
                       "damaged or of another kind") from None


def parse_json(text: str):
    """JSON in which a key may stand only once per object; ``ValueError`` otherwise."""
    def unique(pairs):
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key stands twice")
        return result
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
