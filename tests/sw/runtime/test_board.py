"""The driver against the gateware behind the bus, without a line between them."""

import os

import numpy as np
import pytest

from zeroskip.hw.bus import REQUEST, RESPONSE, Status
from zeroskip.hw.system.accelerator import Accelerator
from zeroskip.hw.system.config import VERSION, SystemConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim import cxxrtl
from zeroskip.sim.cases import make_case, random_layers
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.eie import host
from zeroskip.sw.engines.payload import pack_fields, unpack_fields
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.errors import LinkError
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime.board import Board, BoardCore, Patience
from zeroskip.sw.runtime.link import Identity, OutOfRange

REGRESSION = "ZEROSKIP_REGRESSION" in os.environ


class BusLink:
    """Takes the place of :class:`zeroskip.sw.runtime.link.Link`: each word is a request."""

    def __init__(self, system, identity=None):
        self.model = cxxrtl.Model(cxxrtl.build(lambda: Accelerator(system), "accelerator",
                                               str(system.digest())))
        self._identity = identity or Identity(VERSION, system.digest())

    def identify(self):
        return self._identity

    def write(self, address, words, *, fixed=False):
        for done, word in enumerate(np.asarray(words).tolist()):
            if self._request(address + 4 * done * (not fixed), 1, word)[0] is Status.BUSY:
                return done
        return len(words)

    def read(self, address, count, *, fixed=False):
        found = []
        for done in range(count):
            status, word = self._request(address + 4 * done * (not fixed), 0, 0)
            if status is Status.BUSY:
                break
            found.append(word)
        return np.array(found, np.uint32)

    def _request(self, address, write, word):
        self.model.tick(8)      # of the many that a frame takes
        request = pack_fields(REQUEST, {"address": [address], "write": [write],
                                        "strobes": [15], "data": [word]})
        payload, _ = self.model.run({"bus__request": request}, {"bus__response": 1})[
            "bus__response"]
        response = {name: int(value[0]) for name, value in unpack_fields(
            RESPONSE, payload).items()}
        if response["status"] == Status.RANGE.value:
            raise OutOfRange("out of range")
        return Status(response["status"]), response["data"]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(3)
    inputs = rng.integers(-100, 100, (3, 12)) * (rng.random((3, 12)) < 0.6)
    return make_case(random_layers(rng, (12, 10, 5), 0.4), inputs, pes=2)


@pytest.fixture(scope="module")
def link(case):
    return BusLink(SystemConfig((case.image.config,)))


def board_of(link, case, **kinds):
    return Board(link, SystemConfig((case.image.config,)), **kinds)


def outputs_equal(case, result):
    for found, expected in zip(result.outputs, case.expected, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_job_through_the_registers(case, link):
    result = host.run(board_of(link, case).device("eie"), case.image, case.inputs)
    outputs_equal(case, result)
    assert result.statistics.images == 3
    assert result.statistics.cycles > 0


@pytest.mark.timeout(900)
def test_after_a_reset_in_any_cycle_the_next_job_is_exact(case, link, run_seed):
    rng, board = np.random.default_rng(5 + run_seed), board_of(link, case)
    for _ in range(200 if REGRESSION else 15):
        device = board.device("eie")
        kind = rng.integers(3)
        if kind == 0:       # in the middle of a word of the load, or of a vector
            device.run({"load": np.ones((int(rng.integers(1, 9)), 2), np.uint32)}, {})
            link.write(device._addresses["load"], np.array([7]), fixed=True)
        elif kind == 1:
            device.run({"inputs": rng.integers(1, 99, (int(rng.integers(1, 11)), 1))}, {})
        else:
            host.run(device, case.image, case.inputs[:1])
            words = case.inputs[0].astype(np.int16).view(np.uint16).astype(np.uint32)
            words[-1] |= 1 << 16
            device.run({"inputs": words.reshape(-1, 1)}, {})
            link.model.tick(int(rng.integers(0, 200)))
        outputs_equal(case, host.run(board.device("eie"), case.image, case.inputs))


def test_a_core_without_counters_is_not_checked():
    """It has no register that could be written without a consequence; none is touched."""
    BoardCore(None, {"busy": 0}, {}, Patience()).check()


def test_a_core_that_stalls(case, link):
    device = board_of(link, case, patience=Patience(0.01)).device("eie")
    with pytest.raises(TimeoutError, match=r"no word moved for 0.01 seconds, with 0 to send and 3"):
        device.run({}, {"outputs": 3})


@pytest.mark.parametrize(("identity", "message"), [
    (Identity(VERSION + 1, 0), "is of version 4, and this program speaks 3; build the bitstream"),
    (Identity(VERSION, 0xABC), "with digest 0000000000000abc, and the program for [0-9a-f]{16};"),
])
def test_another_board(case, identity, message):
    other = BusLink(SystemConfig((case.image.config,)), identity)
    with pytest.raises(LinkError, match=message):
        board_of(other, case)


def test_the_system_that_it_is_among_several(case, link):
    both = SystemConfig((case.image.config, TensorCoreConfig()))
    board = Board(link, both, SystemConfig((case.image.config,)))
    assert board.system == SystemConfig((case.image.config,))
    outputs_equal(case, host.run(board.device("eie"), case.image, case.inputs))


@pytest.mark.timeout(300)
def test_three_cores_each_compute_a_program_of_their_own():
    """Two arrays of one kind, of two configurations, and a tensor core, in turn and again: what
    one is loaded with is still there when the others have been at work."""
    rng = np.random.default_rng(8)
    first, second = (make_case(random_layers(rng, (9, outputs), 0.5),
                               rng.integers(-100, 100, (2, 9)), pes=1, queue_depth=depth)
                     for outputs, depth in ((7, 3), (4, 5)))
    config = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=16, activation_words=16)
    weight = rng.integers(-128, 128, (5, 12)).astype(np.int8)
    layer = Int8Layer(
        name="fc", weight=weight, bias=rng.integers(-99, 99, 5),
        multiplier=np.full(5, 1 << 30, np.int32), shift=np.full(5, 38, np.int32),
        activation="none", geometry=None, input=TensorType.of(12, np.int8, 1.0),
        output=TensorType.of(5, np.int8, 1.0))
    image = TensorCoreImage.packed(config, (layer, "dense"), batch=3)
    x = rng.integers(-128, 128, (3, 12)).astype(np.int8)
    sums = x.astype(np.int64) @ weight.T + layer.bias
    rounded = np.rint(sums / 2**8)     # exact in float64, a tie to even
    jobs = {"eie": (first.image, first.inputs, first.expected),
            "tensorcore": (image, x, (np.clip(rounded, -128, 127),)),
            "eie_1": (second.image, second.inputs, second.expected)}
    system = SystemConfig((first.image.config, config, second.image.config))
    assert system.names == tuple(jobs)
    board = Board(BusLink(system), system)
    devices = {name: board.device(name) for name in jobs}
    for name in (*jobs, "eie"):
        image, inputs, expected = jobs[name]
        result = registry.engine(image.engine).run(devices[name], image, inputs)
        for found, right in zip(result.outputs, expected, strict=True):
            np.testing.assert_array_equal(found, right)
