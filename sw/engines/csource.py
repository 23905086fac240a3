"""Text of C headers: constants, arrays and structures."""

import numpy as np

PER_LINE = 8
"""Numbers in a line of an array."""


def constants(values: dict[str, int]) -> str:
    """Definitions of integer constants."""
    return "enum { " + ", ".join(f"{name} = {value}" for name, value in values.items()) + " };\n"


def array(name: str, values: np.ndarray) -> str:
    """The definition of a constant array of integers, flat."""
    form = "{:#010x}" if values.dtype == np.uint32 else "{}"
    words = [form.format(value) for value in values.ravel().tolist()]
    lines = [", ".join(words[at:at + PER_LINE]) for at in range(0, len(words), PER_LINE)]
    return (f"static const {values.dtype.name}_t {name}[] = {{\n    " + ",\n    ".join(lines)
            + "};\n")


def fields(values: dict[str, object]) -> str:
    """An initialiser with these fields, one a line."""
    return "{\n" + "".join(f"    .{name} = {value},\n" for name, value in values.items()) + "}"
