"""The command ``convert``."""

from dataclasses import asdict
from pathlib import Path

from zeroskip.sw.cli.files import check_writable
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler import reference
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import tensors
from zeroskip.sw.formats.convert import convert as convert_tensors


def convert(source: Path, out: Path, to: str, screen: Screen) -> None:
    """See ``zeroskip convert --help``."""
    if out.suffix != ".safetensors":
        raise BadInput(f"{out}: tensors are written as safetensors; give a name that ends in "
                       ".safetensors")
    check_writable(out)
    metadata, found = tensors.read(source)
    if "zeroskip" in metadata:
        raise BadInput(f"{source}: a compiled program, whose matrices are packed for its engines; "
                       f"give its reference, {reference.beside(source).name}, which holds them "
                       "dense")
    try:
        metadata, converted, rows = convert_tensors(metadata, found, to)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None
    tensors.write(out, metadata, converted)

    screen.table(f"{source} -> {out}", [
        "tensor", "type", "shape", "form", "pattern", "bytes", "bytes then"], [
        [row.name, row.dtype, list(row.shape),
         f"{row.form} -> {to if row.pattern else 'dense'}" if row.converted else "unchanged",
         row.pattern, row.bytes_in, row.bytes_out] for row in rows])
    left = [[row.name, row.reason] for row in rows if row.reason]
    if left:
        screen.table(f"not {to}", ["tensor", "reason"], left)
    if not any(row.converted for row in rows):
        screen.notice(f"zeroskip: nothing was converted; {out} holds what {source} holds")
    screen.result({"form": to, "tensors": [asdict(row) for row in rows]})
