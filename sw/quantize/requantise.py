"""From sums to integers of another scale: a multiplier and a shift in place of a real number.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 2.2.
"""

from math import frexp, ldexp

from zeroskip.sw.errors import BadInput

LEAST_SHIFT, GREATEST_SHIFT = 24, 55
FINEST = 64
"""Steps of the output at most in a unit of what is requantised; a multiplier takes under 128."""


def multiplier_and_shift(scale: float) -> tuple[int, int]:
    """``multiplier * 2^-shift`` nearest to ``scale``, a real number of at least 0.

    The multiplier has 31 bits where a shift of at most 55 allows, fewer beyond. Raises
    :class:`BadInput` from 128 on, which no shift of at least 24 reaches.
    """
    if not 0 <= scale < 128:
        raise BadInput(f"the scale from sum to output is {scale:g}, not from 0 to below 128; "
                       "quantise the model again, with a coarser scale of the output")
    _, exponent = frexp(scale)
    shift = min(31 - exponent, GREATEST_SHIFT)
    multiplier = round(ldexp(scale, shift))
    if multiplier == 1 << 31:   # rounded up to a power of two
        return ((1 << 30, shift - 1) if shift > LEAST_SHIFT else ((1 << 31) - 1, shift))
    return multiplier, shift
