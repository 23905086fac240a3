"""What is said of nodes that no engine computes."""

from collections.abc import Sequence
from typing import Protocol

NAME = 100
"""Characters of a name in the table."""


class Refused(Protocol):
    """A node of a model."""

    @property
    def name(self) -> str:
        """As messages call it."""

    @property
    def operator(self) -> str:
        """As the model calls it."""

    @property
    def reason(self) -> str:
        """Why no engine takes it, or nothing."""


def table(nodes: Sequence[Refused]) -> str:
    """Plain text, one line a node: its name, operator and the reason."""
    cells = [("node", "operator", "reason")] + [
        (each.name[:NAME], each.operator[:NAME], each.reason or "no engine computes it")
        for each in nodes]
    name, operator = (max(len(cell[i]) for cell in cells) for i in (0, 1))
    return "\n".join(f"  {a:<{name}}  {b:<{operator}}  {c}" for a, b, c in cells)
