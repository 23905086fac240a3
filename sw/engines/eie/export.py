"""An image of an EIE array as constants in C; ``examples/c/zeroskip.h`` has the structures."""

import numpy as np

from zeroskip.sw.engines import csource
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.loads import EIELoads, Grid
from zeroskip.sw.engines.eie.records import block_items, load_items, row_items, start_items


def c_source(image: EIEImage | EIELoads, name: str, addresses: dict[str, int]) -> str:
    """Definitions of a ``struct zsk_eie``, or of a ``struct zsk_eie_loads`` for an image in several
    loads, called ``name``, and of what it points to.

    ``addresses`` are those of the array's ports, in bytes from its page.
    """
    if isinstance(image, EIELoads):
        return _loads(image, name, addresses)
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
                "outputs": image.outputs, **_ports(addresses)}) + ";\n")


def _ports(addresses: dict[str, int]) -> dict[str, str]:
    return {f"{port}_at": f"{addresses[port]:#06x}" for port in ("load", "inputs", "outputs")}


def _loads(image: EIELoads, name: str, addresses: dict[str, int]) -> str:
    largest = max(layer.outputs for layer in image.layers)
    return ("".join(_layer(layer, f"{name}_layer{i}") for i, layer in enumerate(image.layers))
            + _structures("zsk_eie_layer", f"{name}_layers", [{
                "rows": f"{name}_layer{i}_rows", "row_count": len(layer.rows),
                "inputs": layer.inputs, "outputs": layer.outputs, "samples": layer.samples}
                for i, layer in enumerate(image.layers)])
            + csource.constants({f"{name}_outputs": image.outputs, f"{name}_largest": largest})
            + f"static const struct zsk_eie_loads {name} = " + csource.fields({
                "layers": f"{name}_layers", "layer_count": len(image.layers),
                "index_bits": image.config.column_width, "inputs": image.inputs,
                "outputs": image.outputs, "largest": largest, **_ports(addresses)}) + ";\n")


def _layer(layer: Grid, name: str) -> str:
    text, rows = "", []
    for r, row in enumerate(layer.rows):
        own, blocks, left = f"{name}_row{r}", [], 0
        for c, block in enumerate(row):
            sends = (False, True) if block is row[-1] else (False,)
            starts = np.stack([start_items(layer, r, c, sample, send=send)
                               for send in sends for sample in range(layer.samples)])
            items = block_items(block)
            text += (csource.array(f"{own}_load{c}", items)
                     + csource.array(f"{own}_starts{c}", starts))
            blocks.append({
                "load": f"{own}_load{c}", "load_count": items.size, "starts": f"{own}_starts{c}",
                "start_count": starts[0].size, "first": left, "inputs": block.inputs})
            left += block.inputs
        order = np.full(row[0].layers[0].slots, -1, np.int32)
        at = layer.order[:, 0] == r
        order[layer.order[at, 1]] = np.flatnonzero(at)
        items = row_items(layer, r)
        text += (_structures("zsk_eie_block", f"{own}_blocks", blocks)
                 + csource.array(f"{own}_order", order) + csource.array(f"{own}_load", items))
        rows.append({"load": f"{own}_load", "load_count": items.size, "blocks": f"{own}_blocks",
                     "block_count": len(row), "order": f"{own}_order", "slots": order.size,
                     "stride": layer.stride(r)})
    return text + _structures("zsk_eie_row", f"{name}_rows", rows)


def _structures(kind: str, name: str, values: list[dict]) -> str:
    return (f"static const struct {kind} {name}[] = {{\n"
            + ",\n".join(map(csource.fields, values)) + "};\n")
