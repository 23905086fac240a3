"""An image of an EIE array as constants in C; ``examples/c/zeroskip.h`` has the structures."""

import numpy as np

from zeroskip.sw.engines import csource
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.records import load_items


def c_source(image: EIEImage, name: str, addresses: dict[str, int]) -> str:
    """Definitions of a ``struct zsk_eie`` called ``name`` and of what it points to.

    ``addresses`` are those of the array's ports, in bytes from its page.
    """
    items, last = load_items(image), len(image.layers) - 1
    # The array numbers its outputs by their places; some hold none.
    slots = image.layers[last].slots
    order = np.full(slots, -1, np.int32)
    order[image.positions(last)] = np.arange(image.outputs)
    return (csource.array(f"{name}_load", items) + csource.array(f"{name}_order", order)
            + csource.constants({f"{name}_outputs": image.outputs})
            + f"static const struct zsk_eie {name} = " + csource.fields({
                "load": f"{name}_load", "load_count": items.size, "order": f"{name}_order",
                "slots": slots, "index_bits": image.config.column_width, "inputs": image.inputs,
                "outputs": image.outputs,
                **{f"{port}_at": f"{addresses[port]:#06x}" for port in (
                    "load", "inputs", "outputs")}}) + ";\n")
