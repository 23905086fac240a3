"""How good a program is at its task: its outputs, and those of the float model, against the
truth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.runtime import arrays
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.run import run_program

BLOCK = 256
"""Samples that run at a time, about."""

TOPS = (1, 5)
"""Ranks up to which retrieval counts an answer as found."""

Metrics = dict[str, float | None]
"""By name; None where a metric means nothing. The first is the one that matters."""


@dataclass(frozen=True)
class Task:
    """What outputs are for.

    Attributes
    ----------
    truth : str
        Name of the array that says what is right.
    check : function of the truth and the number of values of an output
        Raises :class:`BadInput` where it cannot be.
    judge : function of outputs [samples, values] and the truth
    whole : bool
        Whether only all samples together can be judged.
    """

    truth: str
    check: Callable[[np.ndarray, int], None]
    judge: Callable[[np.ndarray, np.ndarray], Metrics]
    whole: bool = False


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> Metrics:
    """Share of the samples whose greatest output is that of their class."""
    return {"accuracy": float(np.mean(outputs.argmax(axis=1) == labels))}


def regression(outputs: np.ndarray, targets: np.ndarray) -> Metrics:
    """R2, of all outputs together and each around its own mean, None where the targets are
    constant; and the root of the mean squared error."""
    wanted = targets.reshape(outputs.shape).astype(np.float64)
    error = np.square(outputs - wanted)
    spread = float(np.square(wanted - wanted.mean(axis=0)).sum())
    return {"r2": 1 - float(error.sum()) / spread if spread else None,
            "rmse": float(np.sqrt(error.mean()))}


def retrieval(outputs: np.ndarray, labels: np.ndarray) -> Metrics:
    """Share of the questions whose answer is among the nearest by cosine, and the mean of the
    inverse ranks. Of the two samples of a label the first is a question, the other its answer."""
    order = np.argsort(labels, kind="stable")
    length = np.linalg.norm(outputs, axis=1, keepdims=True)
    unit = outputs / np.where(length, length, 1)
    found = ranks(unit[order[::2]], unit[order[1::2]])
    recalls: Metrics = {f"recall_{top}": float(np.mean(found <= top)) for top in TOPS}
    return recalls | {"reciprocal_rank": float(np.mean(1 / found))}


def ranks(questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Of each question the rank of its answer among all by cosine, from 1: int64 [questions].

    Both are unit vectors, [questions, size]; an answer as near as the right one counts as nearer.
    """
    near = questions @ answers.T
    return np.sum(near >= near.diagonal()[:, None], axis=1)


def _integers(labels: np.ndarray) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise BadInput(f"labels is {labels.dtype} {list(labels.shape)}; give one integer for each "
                       "sample")


def _classes(labels: np.ndarray, values: int) -> None:
    _integers(labels)
    if labels.min() < 0 or labels.max() >= values:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise BadInput(f"labels holds class {wrong}, but the model has {values} outputs; number "
                       "the classes from 0")


def _pairs(labels: np.ndarray, values: int) -> None:    # noqa: ARG001 - as the others
    _integers(labels)
    names, counts = np.unique(labels, return_counts=True)
    if (counts != 2).any():
        wrong = int((counts != 2).argmax())
        raise BadInput(f"labels has {names[wrong]} {counts[wrong]} times; give each label twice, "
                       "for a question and, behind it, its answer")


def _numbers(targets: np.ndarray, values: int) -> None:
    if targets.size != len(targets) * values:
        raise BadInput(f"targets is {list(targets.shape)}, but the model has {values} outputs; "
                       "give as many for each sample")
    if not np.isfinite(targets).all():
        raise BadInput("targets holds values that are not finite; leave their samples out")


TASKS = {"classification": Task("labels", _classes, accuracy),
         "regression": Task("targets", _numbers, regression),
         "retrieval": Task("labels", _pairs, retrieval, whole=True)}


def task(name: str) -> Task:
    """A task by its name; :class:`BadInput` where there is none."""
    if name not in TASKS:
        raise BadInput(f"there is no task '{name}'; choose one of {', '.join(TASKS)}")
    return TASKS[name]


@dataclass(frozen=True, eq=False)
class Judge:
    """A task with its truth."""

    task: Task
    truth: np.ndarray

    def __call__(self, outputs: np.ndarray) -> Metrics:
        """Metrics of the outputs [n, values] of the first samples; of what only all of them can
        tell, None."""
        if self.task.whole and len(outputs) < len(self.truth):
            return {}
        found = self.task.judge(outputs.astype(np.float64), self.truth[:len(outputs)])
        return {name: value if value is not None and np.isfinite(value) else None
                for name, value in found.items()}


def judge(task: Task, truth: np.ndarray, samples: int, values: int) -> Judge:
    """The judge of outputs of so many values; :class:`BadInput` where the truth does not fit."""
    if len(truth) != samples:
        raise BadInput(f"{task.truth} has {len(truth)} entries for {samples} samples; give one for "
                       "each")
    task.check(truth, values)
    return Judge(task, truth)


def values(program: Program) -> int:
    """Of a sample's output; :class:`BadInput` where a program has several."""
    if len(program.outputs) != 1:
        names = ", ".join(port.name for port in program.outputs)
        raise BadInput(f"the program has the outputs {names}, and only one can be judged; compile "
                       "a model that gives that one alone")
    kind = program.buffers[program.outputs[0].buffer]
    return int(np.prod(arrays.sample_shape(program, kind)))


def of_program(program: Program, backend: Backend, given: arrays.Inputs, samples: int,
               progress: Progress | None = None) -> tuple[np.ndarray, list[Result]]:
    """Outputs [samples, values] of the first samples, and the results of all images without their
    own outputs."""
    count = -(-samples // program.batch)
    step = max(1, BLOCK // program.batch)
    outputs, results = [], []
    for start in range(0, count, step):
        some = slice(start, min(start + step, count))
        done = run_program(program, backend, {name: x[some] for name, x in given.buffers.items()})
        found, = arrays.outputs(program, done.buffers,
                                (some.stop - start) * program.batch).values()
        outputs.append(found.reshape(len(found), -1))
        results += [replace(each, outputs=(), times=()) for each in done.results]
        if progress:
            progress(some.stop, count)
    return np.concatenate(outputs)[:samples], results


def of_model(graph: Graph, path: Path, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """Outputs [samples, values] of a float model, the last filled as the runs are: an ONNX file
    as it is in onnxruntime, another through its graph. ``given`` are runs of ``graph``."""
    name, = graph.outputs
    if path.suffix.lower() != ".onnx":
        found = graph.evaluate(given, [name])[name]
    else:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(path, options,
                                                   providers=["CPUExecutionProvider"])
            count = len(next(iter(given.values())))
            found = np.stack([session.run([name], {
                own: x[i].reshape(graph.types[own].shape) for own, x in given.items()})[0].ravel()
                for i in range(count)])
        except Exception as error:  # onnxruntime's own classes, of no common one
            reason = str(error).strip().partition("\n")[0]
            raise BadInput(f"{path} does not run in onnxruntime ({reason}); export it "
                           "again") from None
    return found.reshape(len(found) * graph.batch, -1)
