"""An image of a tensor core as constants in C; ``examples/c/zeroskip.h`` has the structures."""

from dataclasses import asdict

from zeroskip.hw.tensorcore import layouts
from zeroskip.sw.engines import csource
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.packed import TensorCoreLayer
from zeroskip.sw.engines.tensorcore.sample import Sample


def c_source(image: TensorCoreImage, name: str, addresses: dict[str, int]) -> str:
    """Definitions of a ``struct zsk_tensorcore`` called ``name`` and of what it points to.

    ``addresses`` are those of the core's ports, in bytes from its page.
    """
    config = image.config
    text = "".join(csource.array(f"{name}_layer{j}_{tensor}", values)
                   for j, layer in enumerate(image.layers)
                   for tensor, values in layer.tensors().items())
    layers = ",\n".join(_layer(layer, image, f"{name}_layer{j}")
                        for j, layer in enumerate(image.layers))
    text += f"static const struct zsk_layer {name}_layers[] = {{\n{layers}}};\n"
    items = {"command": layouts.gemm_layout(config), "weights": layouts.panel_layout(config),
             "channel": layouts.CHANNEL, "activations": layouts.strip_layout(config),
             "output": layouts.output_layout(config)}
    ports = ("commands", "weights", "channels", "activations", "outputs", "busy")
    largest = image.batch * max(layer.outputs for layer in image.layers)
    scratch = largest + image.batch * max(
        Sample.of(layer.geometry, layer.inputs).size for layer in image.layers)
    text += csource.constants({f"{name}_largest": largest, f"{name}_scratch": scratch})
    return text + f"static const struct zsk_tensorcore {name} = " + csource.fields({
        "rows": config.rows, "columns": config.columns, "operands": config.operands,
        "batch": image.batch, "inputs": image.inputs, "outputs": image.outputs,
        **{f"{item}_words": -(-layout.size // 32) for item, layout in items.items()},
        **{f"{port}_at": f"{addresses[port]:#06x}" for port in ports},
        "scratch": scratch, "largest": largest, "layer_count": len(image.layers),
        "layers": f"{name}_layers"}) + ";\n"


def _layer(layer: TensorCoreLayer, image: TensorCoreImage, name: str) -> str:
    schedule = layer.schedule(image.config, image.batch)
    sample = asdict(Sample.of(layer.geometry, layer.inputs))
    return csource.fields({
        **{tensor: f"{name}_{tensor}" for tensor in layer.tensors()},
        "m": schedule.m, "n": schedule.n, "block": schedule.block, "chunks": schedule.chunks,
        "steps": schedule.steps, "words": schedule.words, "keep": int(schedule.keep),
        "rows_apart": layer.rows_apart, "values_apart": layer.values_apart,
        "zero_point": layer.input.zero_point, "channels_in": sample.pop("channels"), **sample})
