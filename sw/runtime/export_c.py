"""A program as a C header: what a host without Python sends to a core, as constants."""

from zeroskip.hw.system.corepage import core_items
from zeroskip.hw.system.registers import Page
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput


def c_header(program: Program, name: str) -> str:
    """A header that defines the program's only image as ``name``.

    ``BadInput`` where the program has several images, or ``name`` is no identifier.
    """
    if not (name.isidentifier() and name.isascii()):
        raise BadInput(f"{name!r} is no name in C; give the header a name of letters, digits and _")
    if len(program.images) > 1:
        raise BadInput(f"the program has {len(program.images)} images, and what the host computes "
                       "between them is not written as C; compile the model for one engine")
    (image,) = program.images
    addresses = Page("core", 0, core_items(image.config.component())).addresses
    source = registry.engine(image.engine).c_source(image, name, addresses)
    return (f"/* Made by zeroskip export-c: an image of the engine {image.engine}, for a core of\n"
            f"   configuration {image.config.digest()}. Addresses count from the core's page. */\n"
            f"#ifndef ZSK_{name.upper()}_H\n#define ZSK_{name.upper()}_H\n\n"
            f"#include \"zeroskip.h\"\n\n{source}\n#endif\n")
