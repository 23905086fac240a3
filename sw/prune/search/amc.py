"""AMC: a learner goes through the layers, and is rewarded for the accuracy of the whole.

Source: He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV
2018, section 3: the state, DDPG, its noise and sizes, and, for a budget, actions that leave it in
reach (algorithm 1). The state has cost where the paper has FLOPs. The reward, minus the error,
comes with the last layer; nothing is discounted, so that each layer's value is that reward.

Otherwise than in the paper, an action is spread over the densities that leave the budget in reach,
not clipped to them, and no moving average is taken off the reward: in a few trials on the digits
network the agent's last densities were worse with either.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium
import numpy as np
import torch
from scipy.stats import truncnorm
from stable_baselines3 import DDPG

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Conv2d, Layer
from zeroskip.sw.prune.ratios import Densities, Progress, Task, Trial, seen
from zeroskip.sw.prune.train import one_thread

WARM_UP = 0.25
"""Part of the episodes that act at random; 100 of 400, as in the paper."""
NOISE, LAST = 0.5, 0.01
"""Spread of an action's noise, over the range of actions, behind the warm-up; what is left of it in
the end. It falls by a factor an episode: of 300, 0.985. That of the authors' program, 0.95, leaves
the agent where it has learnt little yet."""


def search(
    task: Task,
    *,
    evaluations: int = 400,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Densities, list[Trial]]:
    """The best densities of ``evaluations`` episodes, of equal ones the first.

    Raises BadInput where the budget cannot be met, and without samples to see the layers at work.
    """
    layers = len(task.cut.names)
    with one_thread(), _own_randomness():
        episodes = _Episodes(task, lambda done: progress and progress(done, evaluations, "amc"))
        _Agent(episodes, layers, evaluations, seed).learn(evaluations * layers)
    best = max(episodes.trials, key=lambda trial: trial.accuracy)
    return task.scaled(best.densities), episodes.trials


class _Episodes(gymnasium.Env):
    """An episode cuts each layer once, from the first to the last.

    Attributes
    ----------
    trials : list of Trial
        One an episode.
    """

    def __init__(self, task: Task, ended):
        self._task, self._table, self._ended = task, task.table, ended
        self.trials = []
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,))
        if task.cut.data is None:
            raise BadInput("amc looks at what reaches each layer; give samples.")
        layers = [layer for layer, _ in seen(task.cut.model, task.cut.data.rows(slice(0, 1)))]
        self._most = np.array([self._table.most(name) for name in task.cut.names])
        fixed = np.column_stack([
            np.arange(len(layers)), np.array([_shape(layer) for layer in layers]), self._most])
        # each from 0 to 1, as the paper scales it
        self._fixed = fixed / np.maximum(fixed.max(axis=0), 1e-9)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(fixed[0]) + 3,))

    def reset(self, *, seed=None, options=None):    # noqa: ARG002 - gymnasium's signature
        """The state before the first layer."""
        super().reset(seed=seed)
        self._densities, self._saved = {}, 0.0
        return self._state(0, 1.0), {}

    def step(self, action):
        """Cuts the next layer: 0 is the lowest density, 1 the highest the budget may allow."""
        at = len(self._densities)
        name = self._task.cut.names[at]
        wanted = self._table.dense - self._task.budget - self._saved - self._most[at + 1:].sum()
        low = self._task.low
        density = low + float(action[0]) * (self._table.density(name, wanted) - low)
        self._densities[name] = density
        self._saved += self._table.saving(name, density)
        done, reward = at + 1 == len(self._most), 0.0
        if done:
            accuracy = self._task.evaluate(self._task.cut(self._densities))
            self.trials.append(Trial(self._densities, self._table.dense - self._saved, accuracy))
            reward = accuracy - 1
            self._ended(len(self.trials))
        return self._state(min(at + 1, len(self._most) - 1), density), reward, done, False, {}

    def _state(self, at: int, last: float) -> np.ndarray:
        """Of layer ``at``: its index, shape and greatest saving; what the layers before it saved,
        what those behind it can save, and the last layer's density."""
        total = max(self._most.sum(), 1e-9)
        return np.array([*self._fixed[at], self._saved / total, self._most[at + 1:].sum() / total,
                         last], np.float32)


def _shape(layer: Layer) -> tuple[int, ...]:
    """Outputs, inputs, their height and width, stride and kernel."""
    if isinstance(layer, Conv2d):
        return (*layer.weight.shape[:2], *layer.input_shape[1:], layer.stride[0], layer.kernel[0])
    return (*layer.weight.shape, 1, 1, 1, 1)


class _Agent(DDPG):
    """DDPG of the paper's sizes, with its noise: normal, truncated to the range of actions."""

    def __init__(self, episodes: _Episodes, layers: int, evaluations: int, seed: int):
        self._warm_up = int(WARM_UP * evaluations)
        self._decay = LAST ** (1 / (evaluations - self._warm_up))
        super().__init__(
            "MlpPolicy", episodes, learning_starts=self._warm_up * layers, buffer_size=2000,
            learning_rate=3e-4, gradient_steps=3, batch_size=64, tau=0.01, gamma=1.0, seed=seed,
            device="cpu", policy_kwargs={"net_arch": [300, 300]})

    def _sample_action(self, learning_starts, action_noise=None, n_envs=1):
        action, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        if self.num_timesteps < learning_starts:
            return action, scaled
        # scaled actions are from -1 to 1
        spread = 2 * NOISE * self._decay ** (self._episode_num - self._warm_up)
        scaled = truncnorm.rvs((-1 - scaled) / spread, (1 - scaled) / spread, scaled, spread,
                               scaled.shape)
        scaled = scaled.astype(np.float32)
        return self.policy.unscale_action(scaled), scaled


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Gives back the global generators, which stable-baselines3 seeds, as they were."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
