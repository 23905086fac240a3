"""What the tests of the tensor core share: GEMMs with their expected outputs, and a core that
computes them.

Expected values come from numpy and Python's integers, never from the gateware. Every fixture
gives a function or a class, and lives for the whole session so that hypothesis may use it.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.hdl import Value

from zeroskip.hw.tensorcore.config import GROUP, SPEEDUP
from zeroskip.hw.tensorcore.core import CoreCounter, TensorCore
from zeroskip.hw.tensorcore.layouts import BOUNDS, PATTERNS
from zeroskip.hw.tensorcore.loopnest import LoopNest
from zeroskip.sim.bench import device
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.engines.wire import streams


def _requantised(total, multiplier, shift, *, zero_point=0, relu=False):
    """(y, saturated) of one sum with its bias, in exact integers.

    q is the integer nearest to total * multiplier / 2^shift, of two the even one; y = clip(q +
    zero_point), at least the zero point with ReLU; saturated tells of what was too large for int8,
    or, without ReLU, too small.
    """
    total = (total + (1 << 31)) % (1 << 32) - (1 << 31)
    y = round(Fraction(total * multiplier, 1 << shift)) + zero_point
    saturated = y > 127 or (y < -128 and not relu)
    return min(127, max(zero_point if relu else -128, y)), saturated


@pytest.fixture(scope="session")
def requantised():
    """``requantised(total, multiplier, shift, zero_point=, relu=)``: (y, saturated)."""
    return _requantised


def _wrapped(exact):
    """int64 sums as int32, modulo 2^32."""
    return exact.astype(np.uint32).view(np.int32)


def _nibbles(matrix):
    """Each int8 as the two 4-bit numbers in it, the low one first: int64 [..., 2 * n]."""
    low = (matrix.astype(np.int64) & 15 ^ 8) - 8
    return np.stack([low, matrix.astype(np.int64) >> 4], axis=-1).reshape(*matrix.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class Gemm:
    """One GEMM as a host has it.

    Attributes
    ----------
    schedule : Schedule
    values : int8 [m, kept]
        Stored weights.
    indices : uint8 [m, kept], dense: [m, 0]
        Place of each in its group.
    a : int8 [m, k]
        The same weights with their zeros.
    b : int8 [n, k]
        The columns of B.
    bias, multiplier, shift : int64 [m]
    zero_point : int
    relu, raw, int4 : bool
    """

    schedule: Schedule
    values: np.ndarray
    indices: np.ndarray
    a: np.ndarray
    b: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    zero_point: int
    relu: bool
    raw: bool
    int4: bool

    @classmethod
    def random(cls, config, pattern, m, k, n, *, seed=0, relu=False, raw=False, int4=False):
        """Any weights of the pattern and any numbers, the extremes of int8 among them."""
        rng = np.random.default_rng(seed)
        values, indices, a = _weights(rng, pattern, m, k)
        b = _bytes(rng, (n, k))
        multiplier, shift = (np.full(m, value) for value in RAW)
        if not raw:
            # A sum of k products has about this many bits: outputs on both sides of the ends.
            shift = rng.integers(24, 56, m)
            bits = shift - 7 - np.log2(np.sqrt(k)).astype(int) + rng.integers(-2, 2, m)
            multiplier = rng.integers(1 << 30, 1 << 31, m) >> np.maximum(31 - bits, 0)
        return cls(Schedule.of(config, pattern, m, k, n), values, indices, a, b,
                   rng.integers(-9999, 9999, m), multiplier, shift,
                   0 if raw else int(rng.integers(-128, 128)), relu, raw, int4)

    @property
    def sums(self):
        """A.B without bias, int32 [m, n]."""
        if self.int4:
            return _wrapped(_nibbles(self.a) @ _nibbles(self.b).T)
        return _wrapped(self.a.astype(np.int64) @ self.b.astype(np.int64).T)

    def expected(self):
        """Outputs int64 [m, n], and which were saturated, bool [m, n]."""
        totals = self.sums.astype(np.int64) + self.bias[:, None]
        if self.raw:
            return _wrapped(totals).astype(np.int64), np.zeros(totals.shape, bool)
        pairs = [[_requantised(total, multiplier, shift, zero_point=self.zero_point,
                               relu=self.relu) for total in row]
                 for row, multiplier, shift in zip(totals.tolist(), self.multiplier.tolist(),
                                                   self.shift.tolist(), strict=True)]
        y, saturated = np.moveaxis(np.array(pairs), -1, 0)
        return y, saturated.astype(bool)

    def streams(self):
        """What the host sends: stream name to uint32 [items, words]."""
        schedule = self.schedule
        return streams(schedule.records(
            schedule.command(zero_point=self.zero_point, relu=self.relu, raw=self.raw,
                             int4=self.int4),
            schedule.weights(self.values, self.indices),
            schedule.channels(self.bias, self.multiplier, self.shift),
            schedule.operands(self.b)))[0]

    @property
    def steps(self):
        """Steps of the whole GEMM: every tile's share of every chunk."""
        schedule = self.schedule
        tiles = sum(-(-(each.stop - each.start) // schedule.config.columns)
                    for each in schedule.blocks)
        return tiles * len(schedule.panels) * schedule.chunks * schedule.steps


def _bytes(rng, shape):
    """int8, every fourth of them an extreme or zero."""
    extremes = rng.choice(np.array([-128, 127, 0, -1], np.int8), shape)
    return np.where(rng.random(shape) < 0.25, extremes, rng.integers(-128, 128, shape, np.int8))


def _weights(rng, pattern, m, k):
    """Stored values, their places, and the matrix [m, k] that they stand for."""
    if pattern == "dense":
        a = _bytes(rng, (m, k))
        return a, np.zeros((m, 0), np.uint8), a
    kept = GROUP // SPEEDUP[pattern]
    groups = -(-k // GROUP)
    choices = np.array(list(combinations(range(GROUP), kept)), np.uint8)
    places = choices[rng.integers(len(choices), size=(m, groups))]
    values = _bytes(rng, places.shape)
    # K may end inside the last group: nothing is stored for what lies behind.
    values[np.arange(groups)[:, None] * GROUP + places >= k] = 0
    a = np.zeros((m, groups, GROUP), np.int8)
    np.put_along_axis(a, places.astype(np.int64), values, axis=2)
    return values.reshape(m, -1), places.reshape(m, -1), a.reshape(m, -1)[:, :k]


@pytest.fixture(scope="session")
def random_gemm():
    """``random_gemm(config, pattern, m, k, n, seed=, relu=, raw=, int4=)``: a :class:`Gemm`."""
    return Gemm.random


def _flat(port):
    """A stream whose payload is a number."""
    return SimpleNamespace(payload=Value.cast(port.payload), valid=port.valid, ready=port.ready)


def _numbers(payload):
    return [int.from_bytes(row.tobytes(), "little") for row in payload]


def _words(numbers, width):
    """The inverse: uint32 [items, words] of ``width`` bits each."""
    size = -(-width // 32) * 4
    return np.frombuffer(b"".join(number.to_bytes(size, "little") for number in numbers),
                         "<u4").reshape(-1, size // 4)


@pytest.fixture(scope="session")
def flat_streams():
    """``flat_streams(gemm)``: what the host sends, stream name to a list of numbers."""
    return lambda gemm: {name: _numbers(items) for name, items in gemm.streams().items()}


@pytest.fixture(scope="session")
def flat():
    """``flat(port)``: a stream whose payload is a number."""
    return _flat


@pytest.fixture(scope="session")
def unflatten():
    """``unflatten(numbers, width)``: payloads uint32 [items, words]."""
    return _words


def _poll(dut, counts):
    """A background process that reads one counter after another all the time."""
    async def poll(ctx):
        shown = which = 0
        async for *_, count in ctx.tick().sample(dut.stats.count):
            counts[CoreCounter(shown)] = count
            shown, which = which, (which + 1) % len(CoreCounter)
            ctx.set(dut.stats.select, which)
    return poll


@pytest.fixture(scope="session")
def compute(transfer):
    """``compute(gemms, stalls=, background=)``: outputs and flags of each of several GEMMs of one
    configuration, one after another on one core, and the counters at the end.

    ``background(dut)`` gives more processes.
    """
    def compute(gemms, *, stalls=None, background=lambda dut: ()):
        config = gemms[0].schedule.config
        dut, counts = device(TensorCore, config), {}
        streams = [each.streams() for each in gemms]
        sends = [(_flat(getattr(dut, name)), _numbers(np.concatenate([s[name] for s in streams])))
                 for name in streams[0]]
        items = [each.schedule.output_rows for each in gemms]
        port = _flat(dut.outputs)
        (numbers,) = transfer(dut, sends, [(port, sum(items))], stalls=stalls,
                              background=[_poll(dut, counts), *background(dut)])
        payload = np.split(_words(numbers, len(port.payload)), np.cumsum(items)[:-1])
        return [each.schedule.outputs(part)
                for each, part in zip(gemms, payload, strict=True)], counts
    return compute


@pytest.fixture(scope="session")
def assert_exact(compute):
    """``assert_exact(*gemms, stalls=, background=)``: every output and flag is the expected one;
    gives the counters."""
    def assert_exact(*gemms, **options):
        results, counts = compute(gemms, **options)
        for each, (outputs, saturated) in zip(gemms, results, strict=True):
            y, flags = each.expected()
            np.testing.assert_array_equal(outputs, y)
            np.testing.assert_array_equal(saturated, flags)
        return counts
    return assert_exact


@dataclass(frozen=True)
class Sizes:
    """The sizes in a command, and the turns of the loop nest."""

    config: object
    rows: int
    columns: int
    block: int
    chunks: int
    steps: int = 1
    words: int = 1
    pattern: str = "dense"
    keep: int = 0

    @property
    def command(self):
        """The fields of the command that are sizes, and whether the weights are kept."""
        names = ("rows", "columns", "block", "chunks", "steps", "words", "keep")
        return {name: getattr(self, name) for name in names}

    async def start(self, ctx, dut):
        """Gives the command; the loop nest starts two cycles later."""
        if isinstance(dut, LoopNest):
            ctx.set(dut.bounds, {name: self.command[name] for name, _ in BOUNDS})
        else:
            ctx.set(dut.gemm, {**self.command, "pattern": PATTERNS[self.pattern]})
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick()

    def turns(self, *, panels=True, chunks=True):
        """(columns, rows, chunk, last panel) of every turn: blocks, panels, chunks."""
        own = range(0, self.rows, self.config.rows) if panels else [0]
        for left in range(self.columns, 0, -self.block):
            for at in own:
                for chunk in range(self.chunks if chunks else 1):
                    yield (min(left, self.block), min(self.rows - at, self.config.rows), chunk,
                           at == own[-1])


@pytest.fixture(scope="session")
def gemm_sizes():
    """``gemm_sizes(config, rows, columns, block, chunks, steps, words, pattern, keep)``:
    :class:`Sizes`."""
    return Sizes
