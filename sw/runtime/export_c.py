"""A program as a C header: what a host without Python sends to a core, as constants."""

from zeroskip.hw.system.corepage import core_items
from zeroskip.hw.system.registers import Page
from zeroskip.sw.compiler.program import EngineStep, Program
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput


def c_header(program: Program, name: str) -> str:
    """A header that defines the image of the program's only step as ``name``.

    ``BadInput`` where there are more, of engines or of the host, a sample is several rows, or
    ``name`` is no identifier.
    """
    if not (name.isidentifier() and name.isascii()):
        raise BadInput(f"{name!r} is no name in C; give the header a name of letters, digits and _")
    images = [step.image for step in program.steps if isinstance(step, EngineStep)]
    if len(program.images) > 1:
        raise BadInput(f"the program has {len(program.images)} images, and what the host computes "
                       "between them is not written as C; compile the model for one engine")
    if len(images) > 1:
        raise BadInput(f"the program runs its image {len(images)} times, and what the host does "
                       "between them is not written as C; give each layer of the model weights of "
                       "its own, and compile it for one engine")
    (image,) = images
    (step,) = (each for each in program.steps if isinstance(each, EngineStep))
    if len(program.steps) > 1:
        raise BadInput("the host computes something before or behind the image, which is not "
                       "written as C; compile a model whose inputs a layer reads and whose outputs "
                       "a layer gives")
    if program.rows(step) != program.batch:
        raise BadInput(f"a sample of the program is {program.rows(step)} rows of its image, which "
                       "is not written as C; compile the model for one row")
    addresses = Page("core", 0, core_items(image.config.component())).addresses
    source = registry.engine(image.engine).c_source(image, name, addresses)
    return (f"/* Made by zeroskip export-c: an image of the engine {image.engine}, for a core of\n"
            f"   configuration {image.config.digest()}. Addresses count from the core's page. */\n"
            f"#ifndef ZSK_{name.upper()}_H\n#define ZSK_{name.upper()}_H\n\n"
            f"#include \"zeroskip.h\"\n\n{source}\n#endif\n")
