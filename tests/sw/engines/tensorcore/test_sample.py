"""Where values lie in a sample; those of patches are in ``test_image.py``."""

import numpy as np

from zeroskip.sw.engines.tensorcore.sample import Sample


def test_a_flat_sample_lies_as_it_is():
    sample = Sample.of(None, 12)
    assert sample.size == 12
    assert sample.starts(np.arange(3)).tolist() == [0, 12, 24]
    assert sample.padded(np.arange(24, dtype=np.int8).reshape(2, 12), 5).tolist() == [
        *range(24), 0]
