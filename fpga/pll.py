"""PLLs: the divisors that make one clock of another."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class PLL:
    """A PLL that makes ``mhz`` of ``reference``, as ``reference * multiply / divide``, and of the
    oscillator inside ``oscillator / post``. Where the feedback comes from the oscillator,
    ``oscillator`` is ``reference * multiply / divide``."""

    reference: float
    mhz: float
    divide: int
    multiply: int
    post: int


@dataclass(frozen=True)
class Limits:
    """What the PLLs of a family can do.

    Attributes
    ----------
    oscillator, compared : tuple of float
        Lowest and highest frequency in MHz of the oscillator, and of the two clocks that are
        compared.
    divide, multiply : int
        Largest divisors of the reference and of the feedback.
    post : iterable of int
        Divisors of the oscillator, the preferred first.
    inside : bool
        The feedback comes from the oscillator, not from the output.
    """

    oscillator: tuple[float, float]
    compared: tuple[float, float]
    divide: int
    multiply: int
    post: Iterable[int]
    inside: bool = False

    def settings(self, reference: float, mhz: float) -> Iterator[PLL]:
        """All that give a clock, those with the lowest divisor of the reference first."""
        for divide in range(1, self.divide + 1):
            compared = reference / divide
            for post in self.post:
                multiply = mhz / compared * (post if self.inside else 1)
                if (multiply.is_integer() and multiply <= self.multiply
                        and self.compared[0] <= compared <= self.compared[1]
                        and self.oscillator[0] <= mhz * post <= self.oscillator[1]):
                    yield PLL(reference, mhz, divide, int(multiply), post)
