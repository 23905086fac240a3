"""Two small nets on sequences, trained on waves that are made here: an LSTM and a convolution over
time, as float models, in the integers of golden, and in RTL."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from zeroskip.hw.tensorcore.config import CONFIGS as TENSORCORE
from zeroskip.sw.compiler.compile import Compiled, compile_network
from zeroskip.sw.frontends.load import from_torch
from zeroskip.sw.runtime.arrays import inputs
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

TARGET = "tc-8"
CLASSES = ("sine", "square", "saw", "chirp")
STEPS, CHANNELS = 24, 2
NOISE = 0.35
TRAINING, TESTING, CALIBRATION = 2000, 1000, 200
BATCH, RATE = 50, 0.01


def waves(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy waves, float32 [samples, STEPS, CHANNELS], whose second channel is a quarter of a
    period behind, and their classes, int64 [samples]: the period, the phase and the size are
    random."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(CLASSES), samples)
    period, phase = rng.uniform(6, 12, (samples, 1, 1)), rng.uniform(0, 1, (samples, 1, 1))
    time = np.arange(STEPS)[:, None] / period + phase - np.arange(CHANNELS) / 4
    turn = 2 * np.pi * time
    shapes = np.stack([np.sin(turn), np.sign(np.sin(turn)), 2 * (time % 1) - 1,
                       np.sin(turn * (1 + np.arange(STEPS)[:, None] / STEPS))])
    values = shapes[kinds, np.arange(samples)] * rng.uniform(0.5, 1.5, (samples, 1, 1))
    return (values + rng.normal(0, NOISE, values.shape)).astype(np.float32), kinds


class LSTM(nn.Module):
    """The last output of an LSTM."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(CHANNELS, 24, batch_first=True)
        self.head = nn.Linear(24, len(CLASSES))

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Conv(nn.Module):
    """Convolutions over time."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(CHANNELS, 16, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
            nn.Linear(16, len(CLASSES)))

    def forward(self, x):
        return self.body(x.transpose(1, 2))


NETS: dict[str, Callable[[], nn.Module]] = {"lstm": LSTM, "conv1d": Conv}
EPOCHS = {"lstm": 30, "conv1d": 10}


@dataclass(frozen=True)
class SequenceRun:
    """One net.

    Attributes
    ----------
    net : str
    accuracy, golden : float
        On the test set: of the torch module and of the integers.
    samples : int
        First samples of the test set that ran in RTL.
    float_there, golden_there, rtl : float
        Accuracy on these.
    equal : bool
        Whether golden and RTL agree in every buffer on these.
    images, steps : int
        What the engine is loaded with, and how often it computes one in a run.
    cycles : float
        Of a sample.
    """

    net: str
    accuracy: float
    golden: float
    samples: int
    float_there: float
    golden_there: float
    rtl: float
    equal: bool
    images: int
    steps: int
    cycles: float


def train(name: str, epochs: int) -> nn.Module:
    """The trained module, the same each time."""
    x, wanted = (torch.from_numpy(each) for each in waves(TRAINING, seed=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = NETS[name]()
        optimiser = torch.optim.Adam(module.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(BATCH):
                optimiser.zero_grad()
                nn.functional.cross_entropy(module(x[rows]), wanted[rows]).backward()
                optimiser.step()
            schedule.step()
    return module.eval()


def run(name: str, backend: Backend, samples: int, epochs: int | None = None) -> SequenceRun:
    """Trains, compiles and runs a net: ``samples`` of the test set in RTL."""
    module = train(name, epochs or EPOCHS[name])
    x, wanted = waves(TESTING, seed=2)
    with torch.no_grad():
        real = module(torch.from_numpy(x)).numpy()
    graph = from_torch(module, (torch.from_numpy(x[:1]),))
    compiled = compile_network(graph, waves(CALIBRATION, seed=3)[0], TENSORCORE[TARGET])
    golden = _scores(compiled, GoldenBackend(compiled.program, compiled.reference), x)
    verdict = verify(compiled.program, _buffers(compiled, x[:samples]),
                     (GoldenBackend(compiled.program, compiled.reference), backend))
    rtl = _scores(compiled, backend, x[:samples])
    return SequenceRun(
        name, _accuracy(real, wanted), _accuracy(golden, wanted), samples,
        *(_accuracy(scores[:samples], wanted[:samples]) for scores in (real, golden, rtl)),
        verdict.difference is None, len(compiled.program.images), len(verdict.results[1]),
        sum(each.statistics.cycles for each in verdict.results[1]) / samples)


def _buffers(compiled: Compiled, x: np.ndarray) -> dict[str, np.ndarray]:
    return inputs(compiled.program, "the samples", x).buffers


def _scores(compiled: Compiled, backend: Backend, x: np.ndarray) -> np.ndarray:
    """Outputs as real numbers [samples, classes]."""
    found = run_program(compiled.program, backend, _buffers(compiled, x)).output
    return compiled.program.output.to_float(found)


def _accuracy(scores: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean(scores.argmax(1) == wanted))
