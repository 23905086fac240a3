# amaranth: UnusedElaboratable=no
# A host makes a core for its ports alone.
"""What every core is: an engine's hardware with a configuration, control ports and streams."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import ClassVar

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Member, Out


@dataclass(frozen=True)
class CoreConfig(ABC):
    """The one configuration of a core, base of each engine's; it has fields of plain values.

    Attributes
    ----------
    kind : str
        The engine's name, an identifier.
    least, most : dict
        Smallest value of an integer field where it is not 1, and largest where there is one.
    """

    kind: ClassVar[str]
    least: ClassVar[Mapping[str, int]] = {}
    most: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self):
        """``TypeError`` and ``ValueError`` for integers and flags that the fields do not take."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is bool:
                if not isinstance(value, bool):
                    raise TypeError(f"{field.name} must be True or False, not {value!r}")
            elif field.type is int:
                if not isinstance(value, int) or isinstance(value, bool):
                    raise TypeError(f"{field.name} must be an integer, not {value!r}")
                least, most = self.least.get(field.name, 1), self.most.get(field.name, value)
                if value < least:
                    raise ValueError(f"{field.name} must be at least {least}, not {value}")
                if value > most:
                    raise ValueError(f"{field.name} must be at most {most}, not {value}")

    def digest(self) -> str:
        """A short name for exactly this configuration; a program file carries it."""
        text = json.dumps([self.kind, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def rate(self) -> int:
        """Multiplications a cycle, at most; of a core that nobody counts them of, one."""
        return 1

    @property
    def memory_bits(self) -> Mapping[str, int]:
        """Bits of each memory; of those that nobody needs to know, nothing."""
        return {}

    @abstractmethod
    def gateware(self) -> Callable[..., wiring.Component]:
        """The class of the hardware, which takes this configuration, and whose signature is a
        :class:`CoreSignature`; only this imports it."""

    def component(self) -> wiring.Component:
        """The hardware."""
        return self.gateware()(self)


class CoreSignature(wiring.Signature):
    """The ports of a core, which say what they are for.

    A system puts a register in front of each control port, and connects the streams with whatever
    moves data.

    Parameters
    ----------
    control : dict of str to Member
        Signals that are set and read at any time; ``busy``, an output of one bit, is one of them.
    streams : dict of str to Member
        Streams of items, into the core or out of it.
    latency : dict of str to int
        Of control ports that are asked and answer: cycles from a question to its answer.
    """

    def __init__(self, *, control: Mapping[str, Member], streams: Mapping[str, Member],
                 latency: Mapping[str, int] = MappingProxyType({})):
        if control.get("busy") != Out(1):
            raise ValueError("control ports of a core must have 'busy', an output of one bit")
        if both := control.keys() & streams.keys():
            raise ValueError(f"'{min(both)}' must be a control port or a stream, not both")
        for name, member in {**control, **streams}.items():
            if (name in streams) != (member.is_signature
                                     and isinstance(member.signature, stream.Signature)):
                raise ValueError(f"'{name}' must be a stream if and only if it is one of the "
                                 "streams of a core")
        self.control, self.streams, self.latency = tuple(control), tuple(streams), dict(latency)
        super().__init__({**control, **streams})
