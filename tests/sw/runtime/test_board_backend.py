"""Boards that are wrong: each way by name, and replies spoilt at random behind a right CRC."""

import random
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from cobs import cobs

from zeroskip.hw.bus import Status
from zeroskip.hw.eie.layouts import output_layout
from zeroskip.hw.fronts.frame import Answer
from zeroskip.hw.system.accelerator import register_map
from zeroskip.hw.system.config import VERSION, SystemConfig
from zeroskip.hw.system.registers import Access, Register
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.core import CoreCounter, TensorCore
from zeroskip.sim.amaranth_model import AmaranthModel
from zeroskip.sim.cases import make_case, random_layers
from zeroskip.sim.endpoint_model import EndpointModel
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.payload import pack_fields, unpack_fields
from zeroskip.sw.engines.tensorcore import host as tensorcore_host
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.errors import BadInput, EngineError, LinkError
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backend as engine
from zeroskip.sw.runtime import board_backend
from zeroskip.sw.runtime.backend import Simulated
from zeroskip.sw.runtime.board import Patience

IMAGES = 3


CONFIG = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16)


def as_is(items):
    return items


class Fake:
    """The bus of a board of which one core is used, the first or another one. A job ends with a
    word for which ``ends`` holds; then the next of ``answers``, items uint32 [n, words], lies in
    the window ``outputs``, after ``fault`` has had it."""

    def __init__(self, system, answers, ends, fault=as_is, counters=None, core=None):
        pages = register_map(system)
        self.items = {at: item for page in (pages["system"], pages[core or system.names[0]])
                      for at, item in zip(page.addresses.values(), page.items, strict=True)}
        self.answers, self.ends, self.fault = answers, ends, fault
        self.counters = counters or {}
        self.values, self.queue, self.jobs = {}, [], 0

    def __call__(self, address, write, word):
        item = self.items[address]
        name = item.name
        if name == "outputs" and not write:
            return (Status.OK, self.queue.pop(0)) if self.queue else (Status.BUSY, 0)
        if write and name == "reset":
            self.queue, self.jobs = [], 0
        elif write and self.ends(name, word):
            self.queue += np.asarray(self.fault(self.answers[self.jobs])).reshape(-1).tolist()
            self.jobs += 1
        elif write and isinstance(item, Register) and item.access is Access.WRITE:
            self.values[name] = word & (1 << item.width) - 1
        if name == "stats__count":
            return Status.OK, self.counters.get(self.values["stats__select"], 0)
        return Status.OK, 0 if write else self.values.get(name, 0)


class Wire:
    """What the driver takes for a serial port, with a board at its end that says that it is
    ``system``, and to all else what ``bus`` says."""

    def __init__(self, system, bus, reply=as_is):
        digest = system.digest()
        identity = (0x314B535A, VERSION, digest & 0xFFFFFFFF, digest >> 32)

        def answer(address, write, word):
            return (Status.OK, identity[address // 4]) if address < 16 else bus(
                address, write, word)
        self.endpoint = EndpointModel(answer)
        self.reply, self.waiting = reply, b""

    def write(self, data):
        replies = self.endpoint.feed(data).split(b"\0")
        self.waiting += b"".join(self.reply(reply) + b"\0" for reply in replies if reply)

    def read(self, timeout):
        data, self.waiting = self.waiting, b""
        return data

    def close(self):
        pass


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(3)
    inputs = rng.integers(-100, 100, (IMAGES, 12)) * (rng.random((IMAGES, 12)) < 0.6)
    return make_case(random_layers(rng, (12, 10, 6), 0.4), inputs, pes=2)


def answers_of(case):
    """For each image the outputs of both layers, each in an order of its own."""
    rng, found = np.random.default_rng(4), []
    for image in range(IMAGES):
        items = []
        for number, values in enumerate(case.expected):
            places = np.asarray(case.image.positions(number))
            order = rng.permutation(len(places))
            items.append(pack_fields(output_layout(case.image.config), {
                "index": places[order], "value": values[image][order].view(np.uint16),
                "last": np.arange(len(places)) == len(places) - 1}))
        found.append(np.concatenate(items))
    return found


def ends_a_vector(name, word):
    return name == "inputs" and word >> 16


@pytest.fixture
def eie(case, monkeypatch):
    """``eie(fault, reply)`` runs the case on a board that is wrong in these ways."""
    system = SystemConfig((case.image.config,))
    answers = answers_of(case)

    def run(fault=as_is, reply=as_is, bus=None):
        bus = bus or Fake(system, answers, ends_a_vector, fault)
        return run_on(monkeypatch, case.program, Wire(system, bus, reply), case.inputs)
    return run


def run_on(monkeypatch, program, wire, inputs, patience=0.02, known=()):
    monkeypatch.setattr(board_backend, "SerialPort", lambda _: wire)
    monkeypatch.setattr(board_backend, "Patience", lambda: Patience(patience))
    return board_backend.serial(program, "port", known).run(program.images[0], inputs)


def equal(result, expected):
    return all(np.array_equal(found, right)
               for found, right in zip(result.outputs, expected, strict=True))


def test_a_right_board(case, eie):
    assert case.image.layers[0].slots == 10, "no output is padding"
    assert equal(eie(), case.expected)


def test_a_board_with_other_cores_too(case, monkeypatch):
    """Among those that are known one fits, and in it the core of this configuration."""
    config, other = case.image.config, replace(case.image.config, queue_depth=7)
    known = [SystemConfig((other,)), SystemConfig((CONFIG, other, config, config))]
    bus = Fake(known[1], answers_of(case), ends_a_vector, core="eie_1")
    result = run_on(monkeypatch, case.program, Wire(known[1], bus), case.inputs, known=known)
    assert equal(result, case.expected)
    with pytest.raises(LinkError, match=f"digest {known[0].digest():016x}, and the program for"):
        run_on(monkeypatch, case.program, Wire(known[0], bus), case.inputs, known=known)


def test_a_program_for_more_cores_than_a_board_has(case):
    images = tuple(replace(case.image, config=replace(case.image.config, queue_depth=depth))
                  for depth in range(1, 17))
    with pytest.raises(BadInput, match="for 16 configurations, and a board has 15 cores at most;"):
        board_backend.virtual(Program.chain(images, ()))


def changed(at, **fields):
    """A fault: the output ``at`` of each image gets other fields."""
    def fault(items, layout):
        found = unpack_fields(layout, items)
        for name, value in fields.items():
            found[name][at] = value
        return pack_fields(layout, found)
    return fault


def in_place_of_another(items, _layout=None):
    """The first output is swallowed, and the last sent twice."""
    return items[[*range(1, len(items)), -1]]


RIGHT_COUNT = {
    "swallowed": (in_place_of_another, r"did not send output \d of the 10 of layer layer0 for "
                                       r"image 0, but \d+ twice"),
    "duplicate": (lambda items, _: items[[0, 0, *range(2, len(items))]],
                  r"did not send output \d of the 10 of layer layer0 for image 0, but \d twice"),
    "index out of range": (changed(3, index=12), r"did not send output \d of the 10 of layer "
                           "layer0 for image 0, but 12 which there is not"),
    "index of the other layer": (changed(12, index=8),
                                 r"did not send output \d of the 6 of layer layer1 for image 0, "
                                 "but 8 which"),
    "no last": (changed(9, last=0),
                "marked no output as the last of the 10 of layer layer0 for image 0"),
    "early last": (changed(12, last=1),
                   "marked an early output as the last of the 6 of layer layer1 for image 0"),
}


@pytest.mark.parametrize("fault", RIGHT_COUNT)
def test_outputs_that_cannot_be_right(case, eie, fault):
    spoil, message = RIGHT_COUNT[fault]
    with pytest.raises(LinkError, match=f"^over the link the EIE array {message}.*; check the"):
        eie(lambda items: spoil(items, output_layout(case.image.config)))


def test_a_wrong_image_is_named(eie):
    calls = iter(range(IMAGES))
    with pytest.raises(LinkError, match="layer layer0 for image 1, but"):
        eie(lambda items: in_place_of_another(items) if next(calls) == 1 else items)


def test_an_output_too_many(eie):
    calls = iter(range(IMAGES))
    with pytest.raises(LinkError, match="sent more than the 32 outputs of images 1 to 2"):
        eie(lambda items: items[[*range(len(items)), 0]] if next(calls) == IMAGES - 1 else items)


def test_an_output_that_never_comes(eie):
    with pytest.raises(TimeoutError, match=r"no word moved for 0.02 seconds, with 0 to send and 1"):
        eie(lambda items: items[1:])


def test_zeros(eie):
    """It says what it is, and answers zeros to all else."""
    with pytest.raises(LinkError, match="does not hold what is written to it: 0x5 became 0x0"):
        eie(bus=lambda address, write, word: (Status.OK, 0))


def test_what_was_read_last(eie):
    """Every read gives 5."""
    with pytest.raises(LinkError, match="does not hold what is written to it: 0xa became 0x5"):
        eie(bus=lambda address, write, word: (Status.OK, 5))


@pytest.mark.parametrize("when", [0, 1])
def test_a_register_that_is_busy(eie, when):
    """As it is read, or written."""
    with pytest.raises(LinkError, match="says that the register 'stats__select' is busy"):
        eie(bus=lambda address, write, word: (Status.BUSY if write == when else Status.OK, 5))


def reply_with(spoil):
    """A reply that ``spoil`` changed, the fields of its header and its payload, with its CRC."""
    def reply(frame):
        body = cobs.decode(frame)[:-4]
        body = spoil(*struct.unpack_from("<BBBBHBB", body), body[8:])
        return cobs.encode(body + zlib.crc32(body).to_bytes(4, "little"))
    return reply


def spoiler(rng, share, words):
    """Replies of which a share has another answer, count or length, or, with ``words``, words."""
    def spoil(seq, op, answer, zero, count, expected, end, payload):
        if rng.random() < share:
            kind = rng.choice(["answer", "count", "empty", "cut", "more"] + ["word"] * 5 * words)
            if kind == "answer":
                answer = rng.choice([each.value for each in Answer])
            elif kind == "count":
                count = rng.choice([0, 1, count - 1 & 0xFFFF, count + 1, 256, 0xFFFF])
            elif kind == "empty":
                payload = b""
            elif kind == "cut":
                payload = payload[:rng.randrange(len(payload) + 1)]
            elif kind == "more":
                payload += rng.randbytes(rng.choice([1, 2, 3, 4, 8, 900]))
            elif payload:
                at = rng.randrange(len(payload))
                payload = payload[:at] + rng.randbytes(1) + payload[at + 1:]
        return struct.pack("<BBBBHBB", seq, op, answer, zero, count, expected, end) + payload
    return spoil


@pytest.mark.timeout(60)
@pytest.mark.parametrize("words", [False, True])
def test_hostile_replies(case, eie, words):
    """Whatever a board says, the outputs are right or an error says why they are not there; only
    where the words themselves were spoilt a value may be another one."""
    rng, ends = random.Random(20 + words), []
    for _ in range(100):
        try:
            result = eie(reply=reply_with(spoiler(rng, rng.choice([0.002, 0.01, 0.1, 1]), words)))
        except (LinkError, TimeoutError) as error:
            ends.append(type(error).__name__)
        else:
            assert words or equal(result, case.expected)
            ends.append("run")
    assert {"run", "Refused"} <= set(ends), ends


# --- the tensor core ---

GEMMS = CoreCounter.GEMMS.value


@pytest.fixture(scope="module")
def product():
    """An image of one layer, its inputs, the outputs, and what the core sends."""
    rng = np.random.default_rng(6)
    weight = rng.integers(-128, 128, (5, 12)).astype(np.int8)
    layer = Int8Layer(
        name="fc", weight=weight, bias=rng.integers(-99, 99, 5),
        multiplier=np.full(5, 1 << 30, np.int32), shift=np.full(5, 38, np.int32),
        activation="none", geometry=None, input=TensorType.of(12, np.int8, 1.0),
        output=TensorType.of(5, np.int8, 1.0))
    image = TensorCoreImage.packed(CONFIG, (layer, "dense"), batch=IMAGES)
    inputs = rng.integers(-128, 128, (IMAGES, 12)).astype(np.int8)
    model = AmaranthModel(TensorCore(CONFIG))
    sent, simulate = [], model.run

    def record(*args):
        found = simulate(*args)
        sent.append(found["outputs"][0])
        return found
    model.run = record
    return image, inputs, tensorcore_host.run(model, image, inputs).outputs, sent


@pytest.fixture
def core(product, monkeypatch):
    """``core(fault, counters)`` runs the product on a board that is wrong in these ways."""
    image, inputs, _, sent = product
    system = SystemConfig((CONFIG,))

    def run(fault=as_is, counters={GEMMS: 1}):  # noqa: B006 - nobody changes it
        seen = set()

        def ends(name, _word):      # the first word of the command
            starts = name == "commands" and name not in seen
            seen.add(name)
            return starts
        bus = Fake(system, sent, ends, fault, counters)
        program = Program.chain((image,), ())
        return run_on(monkeypatch, program, Wire(system, bus), inputs)
    return run


def test_a_right_core(product, core):
    assert equal(core(), product[2])


def test_a_row_too_many(core):
    with pytest.raises(LinkError, match="over the link the tensor core sent more than the 10 rows"):
        core(lambda items: np.concatenate([items, items[-1:]]))


def test_a_row_that_never_comes(core):
    with pytest.raises(TimeoutError, match="no word moved for 0.02 seconds, with 0 to send and 3"):
        core(lambda items: items[1:])


def test_a_product_that_was_not_finished(core):
    with pytest.raises(LinkError, match="the tensor core finished 0 products where one of"):
        core(counters={})


def test_a_core_that_stays_busy(product, monkeypatch):
    image, inputs, _, sent = product
    system = SystemConfig((CONFIG,))
    bus = Fake(system, sent, lambda name, word: False)
    bus.values["busy"], bus.queue = 1, sent[0].reshape(-1).tolist()

    def keep(address, write, word):
        return (Status.OK, 0) if bus.items[address].name == "reset" else bus(address, write, word)
    with pytest.raises(TimeoutError, match="'busy' was not 0 within 0.02 seconds"):
        run_on(monkeypatch, Program.chain((image,), ()), Wire(system, keep), inputs)


# --- simulators ---

def test_a_simulated_port_is_waited_for(monkeypatch):
    class Stuck(Simulated):
        cycles = 0

        def peek(self, _name):
            return self.cycles >= 7

        def tick(self):
            self.cycles += 1

    model = Stuck()
    model.wait("busy", 1)
    assert model.cycles == 7
    monkeypatch.setattr(engine, "PATIENCE", 5)
    with pytest.raises(TimeoutError, match="^'busy' was not 0 within 5 cycles$"):
        model.wait("busy", 0)
    assert model.cycles == 12


def test_a_simulator_is_held_to_the_same(product):
    image, inputs, _, _ = product
    model = AmaranthModel(TensorCore(CONFIG))
    model.pending = lambda _: True
    with pytest.raises(EngineError, match="^the tensor core sent more than the 10 rows"):
        tensorcore_host.run(model, replace(image), inputs)
