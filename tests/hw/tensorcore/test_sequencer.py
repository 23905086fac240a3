"""The sequencer: every step of a GEMM in order, and none that cannot finish, cycle by cycle
against a model in plain Python."""

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeroskip.hw.tensorcore.config import SPEEDUP, TensorCoreConfig
from zeroskip.hw.tensorcore.sequencer import Sequencer
from zeroskip.sim.bench import device, plain, simulate

SIZES = {"rows": 3, "columns": 2, "products": 2, "weight_words": 8, "activation_words": 32}
CONFIGS = {
    "dense": TensorCoreConfig(**SIZES, patterns=("dense",)),
    "2:4": TensorCoreConfig(**SIZES),
    "1:4": TensorCoreConfig(**SIZES, patterns=("dense", "1:4")),
    "one row": TensorCoreConfig(rows=1, columns=1, products=2, weight_words=8,
                                activation_words=32, patterns=("dense", "2:4", "1:4")),
}
OUTPUTS = ("weight_address", "activation_address", "rows", "tile_done", "block_done",
           "release_activations", "panel_done", "busy", "waits")
READIES = ("weights", "channels", "activations")


def steps(sizes):
    """What each step of a GEMM shows, and whether it finishes its tile."""
    config, per_word = sizes.config, sizes.config.span // SPEEDUP[sizes.pattern]
    kept = 0        # the address of the turn's first weights
    for columns, rows, chunk, last_panel in sizes.turns():
        tiles = -(-columns // config.columns)
        for tile in range(tiles):
            for at in range(sizes.steps):
                last_step = at == sizes.steps - 1
                last_chunk = chunk == sizes.chunks - 1
                turn = last_step and tile == tiles - 1
                yield {
                    "phase": at % per_word, "first": chunk == at == 0,
                    "last": last_chunk and last_step, "weight_address": kept + at,
                    "activation_address": tile * sizes.words + at // per_word, "rows": rows,
                    "tile_done": last_step, "block_done": turn,
                    "release_activations": turn and (last_panel or sizes.chunks > 1),
                    "panel_done": turn and last_chunk}
        ends = last_panel and chunk == sizes.chunks - 1
        kept = 0 if ends or not sizes.keep else kept + sizes.steps


class Model:
    """What a cycle must look like."""

    def __init__(self, config, slots):
        self.config, self.slots = config, slots
        self.steps, self.waiting, self.apart = [], 0, config.rows
        # Whether a whole tile fitted in when the cycle began that ended last.
        self.room = True
        # Cycles of this turn of the walk so far; it pauses behind a turn of one cycle.
        self.age, self.pause = 0, False
        self.counts = dict.fromkeys(("steps", "weights", "activations", "outputs"), 0)

    def cycle(self, ready):
        """The outputs in a cycle with these operands ready, without those that nobody reads."""
        step = self.steps[0] if self.steps else None
        active = step is not None and not self.pause
        operands = active and all(ready.values())
        issue = operands and (not step["last"] or (
            self.apart >= self.config.rows and self.room))
        panel = ready["weights"] and ready["channels"]
        waits = {"weights": active and not panel,
                 "activations": active and panel and not ready["activations"],
                 "outputs": operands and not issue}
        shown = {"valid": issue, "busy": bool(self.steps) or self.waiting > 0, "waits": waits}
        shown |= step if issue else dict.fromkeys(
            ("tile_done", "block_done", "release_activations", "panel_done"), False)
        return shown

    def advance(self, shown, taken):
        self.apart += 1
        finishes = shown["valid"] and shown["last"]
        self.room = self.waiting + (1 + finishes) * self.config.rows <= self.slots
        self.waiting -= taken
        ends = shown["valid"] and shown["block_done"]
        self.age, self.pause = ((0, self.age == 0) if ends else
                                (self.age + (not self.pause), False))
        self.counts["steps"] += shown["valid"]
        for name, wait in shown["waits"].items():
            self.counts[name] += wait
        if shown["valid"]:
            step = self.steps.pop(0)
            if step["last"]:
                self.waiting += step["rows"]
                self.apart = 1


@pytest.fixture(scope="session")
def follow():
    """``follow(gemms, slots, chances, seed)``: runs them one after another; every cycle is as
    the model says. ``chances`` of the weights, channels and activations being ready, and of a
    row being taken. Gives how many cycles were steps and waits."""
    def follow(gemms, slots, chances, seed=0):
        config, random = gemms[0].config, Random(seed)
        dut, model = device(Sequencer, config, slots=slots), Model(gemms[0].config, slots)

        async def cycle(ctx):
            ready = {name: random.random() < chance
                     for name, chance in zip(READIES, chances[:3], strict=True)}
            for name, value in ready.items():
                ctx.set(getattr(dut, f"{name}_ready"), value)
            taken = model.waiting > 0 and random.random() < chances[3]
            ctx.set(dut.taken, taken)
            _, _, valid, payload, *outputs = await ctx.tick().sample(
                dut.step.valid, dut.step.payload, *(getattr(dut, name) for name in OUTPUTS))
            ctx.set(dut.taken, 0)
            found = {"valid": valid, **plain(payload),
                     **dict(zip(OUTPUTS, map(plain, outputs), strict=True))}
            shown = model.cycle(ready)
            assert {name: found[name] for name in shown} == shown
            model.advance(shown, taken)

        async def bench(ctx):
            for sizes in gemms:
                assert not ctx.get(dut.busy)
                await sizes.start(ctx, dut)
                model.apart += 2
                model.room, model.age, model.pause = True, 0, False
                model.steps = list(steps(sizes))
                while model.steps or model.waiting:
                    await cycle(ctx)
            for _ in range(10):
                await cycle(ctx)

        simulate(dut, bench, deadline=50_000)
        return model.counts
    return follow


@st.composite
def gemms(draw):
    """A configuration, and for each of several GEMMs: rows, columns, block, chunks, steps,
    words, pattern, and whether the weights are kept."""
    config = CONFIGS[draw(st.sampled_from(sorted(CONFIGS)))]
    numbers = []
    for _ in range(draw(st.integers(1, 3))):
        pattern = draw(st.sampled_from(config.patterns))
        per_word, chunks = config.span // SPEEDUP[pattern], draw(st.integers(1, 3))
        count = draw(st.integers(1, 8))
        if chunks > 1:
            count = -(-count // per_word) * per_word
        words = -(-count // per_word)
        tiles = draw(st.integers(1, 32 // words)) if chunks == 1 else 1
        rows = draw(st.integers(1, 7))
        fits = -(-rows // config.rows) * chunks * count <= config.weight_words
        numbers.append((rows, draw(st.integers(1, 7)), tiles * config.columns, chunks, count,
                        words, pattern, int(fits and draw(st.booleans()))))
    return config, numbers


CHANCES = st.sampled_from([(1, 1, 1, 1), (0.7, 0.7, 0.7, 0.7), (1, 1, 1, 0.1), (0.1, 1, 1, 1),
                           (1, 0.1, 1, 1), (1, 1, 0.1, 1)])
FREE = (1, 1, 1, 1)


@given(gemms=gemms(), spare=st.integers(0, 9), chances=CHANCES, seed=st.integers(0, 99))
@example((CONFIGS["2:4"], [(1, 1, 2, 1, 1, 1, "2:4")] * 3), 0, FREE, 0)
@example((CONFIGS["one row"], [(5, 1, 1, 1, 1, 1, "1:4")] * 2), 0, FREE, 0)
@example((CONFIGS["one row"], [(1, 6, 6, 1, 1, 1, "1:4")]), 1, FREE, 0)
@example((CONFIGS["2:4"], [(4, 5, 4, 1, 4, 2, "dense"), (4, 5, 2, 3, 4, 2, "dense")]), 3, FREE, 0)
@example((CONFIGS["2:4"], [(7, 7, 2, 1, 2, 2, "2:4", 1), (4, 5, 2, 2, 2, 2, "2:4", 1),
                           (4, 5, 2, 1, 2, 2, "2:4")]), 9, FREE, 0)
@settings(deadline=None, derandomize=True, max_examples=25)
def test_every_cycle_is_as_the_model_says(follow, gemm_sizes, gemms, spare, chances, seed):
    config, numbers = gemms
    follow([gemm_sizes(config, *each) for each in numbers], config.rows + spare, chances, seed)


@pytest.fixture
def one(gemm_sizes):
    """``one(config name, ...)``: the sizes of one GEMM."""
    return lambda name, *numbers: gemm_sizes(CONFIGS[name], *numbers)


def test_without_a_wait_every_cycle_is_a_step(follow, one):
    sizes = one("2:4", 7, 6, 4, 1, 5, 5, "2:4")
    counts = follow([sizes], 40, FREE)
    assert counts == {"steps": 3 * 3 * 5, "weights": 0, "activations": 0, "outputs": 0}


def test_tiles_of_fewer_steps_than_rows_wait_for_the_rows_before(follow, one):
    """A tile of one step every three cycles, for its three rows."""
    counts = follow([one("2:4", 3, 16, 16, 1, 1, 1, "2:4")], 40, FREE)
    assert counts == {"steps": 8, "weights": 0, "activations": 0, "outputs": 7 * 2}


def test_no_tile_is_finished_without_room_for_its_rows(follow, one):
    """The queue holds one tile, and gives a row in one of ten cycles; all but the last step of
    the next tile are done meanwhile."""
    counts = follow([one("2:4", 3, 12, 12, 1, 4, 4, "2:4")], 3, (1, 1, 1, 0.1))
    assert counts["steps"] == 6 * 4
    assert counts["outputs"] > 100


def test_a_wait_has_one_reason(follow, one):
    sizes = one("2:4", 7, 6, 4, 1, 5, 5, "2:4")
    for chances, reason in (((0.2, 1, 1, 1), "weights"), ((1, 0.2, 1, 1), "weights"),
                            ((1, 1, 0.2, 1), "activations")):
        counts = follow([sizes], 40, chances)
        assert counts.pop("steps") == 3 * 3 * 5
        assert {name for name, count in counts.items() if count} == {reason}
