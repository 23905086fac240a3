"""The dot product: any numbers of every pattern, its latency, and the largest sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.dot import DotProduct
from zeroskip.sim.bench import device, simulate

PATTERNS = {"dense": ("dense",), "2:4": ("dense", "2:4"), "1:4": ("dense", "2:4", "1:4")}
PRODUCTS = pytest.mark.parametrize("products", [2, 4, 16])


@pytest.fixture(scope="session")
def dot(watch):
    """``dot(config, items)``: the sums of items (weights, select, windows), one a cycle."""
    def dot(config, items, int4=0):
        dut, log = device(DotProduct, config), []

        async def bench(ctx):
            if config.int4:
                ctx.set(dut.int4, int4)
            for weights, select, windows in items:
                ctx.set(dut.weights, weights)
                ctx.set(dut.windows, windows)
                if config.sparse:
                    ctx.set(dut.select, select)
                await ctx.tick()

        simulate(dut, bench, background=[watch(log, dut.sum)])
        late = DotProduct.latency(config)
        return [total for total, in log[late:late + len(items)]]
    return dot


def items(rng, config, count):
    """Random items, and for each lane the operands that its select means, int64."""
    window = {1: 2, 2: 4, 4: 8}[config.span]
    weights = rng.integers(-128, 128, (count, config.lanes, 2))
    windows = rng.integers(-128, 128, (count, config.lanes, window))
    pairs = np.array([(low, high) for high in range(4) for low in range(high)])
    select = rng.integers(4, size=weights.shape) if config.span == 4 else \
        pairs[rng.integers(6, size=weights.shape[:2])]
    places = np.broadcast_to([0, 1], select.shape) if config.span == 1 else \
        select + np.array([0, 4 if config.span == 4 else 0])
    chosen = np.take_along_axis(windows, places, axis=2)
    listed = [(w.reshape(-1).tolist(), s.reshape(-1).tolist(), x.tolist())
              for w, s, x in zip(weights, select, windows, strict=True)]
    return listed, weights, chosen


@PRODUCTS
@pytest.mark.parametrize("pattern", PATTERNS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True, max_examples=3)
def test_the_sum_of_all_products_leaves_after_the_latency(dot, products, pattern, seed):
    config = TensorCoreConfig(products=products, patterns=PATTERNS[pattern])
    given_items, weights, chosen = items(np.random.default_rng(seed), config, 10)
    assert dot(config, given_items) == (weights * chosen).sum(axis=(1, 2)).tolist()


@PRODUCTS
@pytest.mark.parametrize("pattern", PATTERNS)
def test_4_bit_pairs(dot, products, pattern):
    config = TensorCoreConfig(products=products, patterns=PATTERNS[pattern], int4=True)
    given_items, weights, chosen = items(np.random.default_rng(products), config, 10)
    low = ((weights & 15 ^ 8) - 8) * ((chosen & 15 ^ 8) - 8)
    high = (weights >> 4) * (chosen >> 4)
    assert dot(config, given_items, int4=1) == (low + high).sum(axis=(1, 2)).tolist()
    assert dot(config, given_items, int4=0) == (weights * chosen).sum(axis=(1, 2)).tolist()


@PRODUCTS
def test_the_largest_and_smallest_sums(dot, products):
    config = TensorCoreConfig(products=products)
    every = [([w] * products, [0, 1] * config.lanes, [[x] * 4] * config.lanes)
             for w, x in ((-128, -128), (-128, 127), (127, 127))]
    assert dot(config, every) == [products * 128 * 128, -products * 128 * 127,
                                  products * 127 * 127]
