"""Names that the shell completes: what is imported for them is imported then.

A shell says the rest of the words: ``zeroskip --install-completion``.
"""


def backends() -> list[str]:
    """Of backends."""
    from zeroskip.sw.runtime.backends import NAMES
    return list(NAMES)


def pairs(incomplete: str) -> list[str]:
    """Of two backends with a comma between."""
    first, comma, _ = incomplete.partition(",")
    return [f"{first},{name}" if comma else name for name in backends()]


def devices() -> list[str]:
    """What a program may run on: serial ports that are there, and the virtual board."""
    from serial.tools.list_ports import comports
    return ["virtual", *(port.device for port in comports())]


def engines() -> list[str]:
    """Of engines."""
    from zeroskip.sw.engines import registry
    return list(registry.names())


def cores() -> list[str]:
    """Of what there is as Verilog."""
    return [*engines(), "accelerator"]


def configurations() -> list[str]:
    """Of configurations of engines."""
    from zeroskip.sw.compiler.targets import configurations as known
    return [name for configs in known(None).values() for name in configs]


def boards() -> list[str]:
    """Of boards."""
    from zeroskip.fpga.boards import BOARDS
    return list(BOARDS)


def designs(ctx) -> list[str]:
    """Of the configurations of the board that is named already, or of all boards."""
    from zeroskip.fpga.boards import BOARDS
    named = BOARDS.get(ctx.params.get("board"))
    return list(dict.fromkeys(name for board in ([named] if named else BOARDS.values())
                              for name in board.configs))


def layers() -> list[str]:
    """Of the paper's layers."""
    from zeroskip.sw.experiments.layers import NINE
    return list(NINE)


def nets() -> list[str]:
    """Of everyday nets, and of those that others measure by."""
    from zeroskip.sw.experiments import everyday, reference_nets
    return [net.name for net in (*everyday.NETS, *reference_nets.NETS)]
