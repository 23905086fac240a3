"""Files of tensors: safetensors, read and written as bytes.

``safetensors.numpy`` knows neither bfloat16 nor the 8-bit floats; here a tensor of any type passes
through as it is, and those with a name in ``DTYPES`` become arrays.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize

from zeroskip.sw import files
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import header_of, parse_json

DTYPES = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16),
          "F32": np.dtype(np.float32), "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8),
          "I16": np.dtype(np.int16), "U16": np.dtype(np.uint16), "I32": np.dtype(np.int32),
          "U32": np.dtype(np.uint32), "I64": np.dtype(np.int64)}
"""numpy's type by the name in a file."""
PICKLES = (".pt", ".pth")


@dataclass(frozen=True)
class Tensor:
    """A tensor as it stands in the file: ``dtype`` is the file's name of it, ``data`` its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> "Tensor":
        """The tensor of an array whose type is in ``DTYPES``."""
        (name,) = (name for name, dtype in DTYPES.items() if dtype == array.dtype)
        return cls(name, array.shape, array.tobytes())

    def array(self) -> np.ndarray:
        """The array; :class:`BadInput` for a type that is not in ``DTYPES``."""
        if self.dtype not in DTYPES:
            raise BadInput(f"its type is {self.dtype}, expected one of {', '.join(DTYPES)}; "
                           "convert it first")
        return np.frombuffer(self.data, DTYPES[self.dtype]).reshape(self.shape)


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; :class:`BadInput` if it is none.

    A tensor or an entry of the metadata that is named twice is refused, metadata of null are none.
    """
    if path.is_dir():
        raise BadInput(f"{path}: this is a folder; give the path of a file")
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file; give the path of an existing one")
    if path.suffix in PICKLES:
        raise BadInput(f"{path}: a pickled state_dict is not read, because reading it runs what it "
                       "holds; write it with safetensors.torch.save_file")
    content = path.read_bytes()
    try:
        tensors = {name: Tensor(found["dtype"], tuple(found["shape"]), bytes(found["data"]))
                   for name, found in deserialize(content)}
        # deserialize keeps the last of two tensors of one name.
        header = parse_json(header_of(content))
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({error}); it is truncated, "
                       "damaged or of another kind") from None
    return header.get("__metadata__") or {}, tensors


def write(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Writes a safetensors file; equal contents are equal bytes."""
    # The widest elements first, so that each tensor is aligned.
    def width(name: str) -> int:
        return len(tensors[name].data) // max(prod(tensors[name].shape), 1)

    header, end = {"__metadata__": dict(sorted(metadata.items()))}, 0
    order = sorted(tensors, key=lambda name: (-width(name), name))
    for name in order:
        start, end = end, end + len(tensors[name].data)
        header[name] = {"dtype": tensors[name].dtype, "shape": tensors[name].shape,
                        "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    content = [len(text).to_bytes(8, "little"), text, *(tensors[name].data for name in order)]
    files.write(path, b"".join(content))
