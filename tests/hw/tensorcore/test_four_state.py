"""The core after nothing but a reset, in a simulator that knows X."""

import numpy as np
import pytest

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.core import TensorCore

CONFIG = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=4, activation_words=8)


@pytest.mark.parametrize("pattern", ["dense", "2:4"])
def test_nothing_depends_on_what_was_there_before_reset(four_state, random_gemm, flat_streams,
                                                        unflatten, pattern):
    gemm = random_gemm(CONFIG, pattern, 5, 30, 5)
    assert gemm.schedule.chunks > 1
    dut = TensorCore(CONFIG)
    found = four_state(dut, [flat_streams(gemm)], "outputs", gemm.schedule.output_rows)
    outputs, saturated = gemm.schedule.outputs(
        unflatten(found, len(dut.outputs.payload.as_value())))
    y, flags = gemm.expected()
    np.testing.assert_array_equal(outputs, y)
    np.testing.assert_array_equal(saturated, flags)
