"""Metrics against sums by hand."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import read, to_onnx
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.runtime import evaluate


def judged(name, outputs, truth):
    outputs = np.asarray(outputs, float)
    return evaluate.judge(evaluate.task(name), np.asarray(truth), *outputs.shape)(outputs)


def test_accuracy():
    assert judged("classification", [[1, 2], [3, 0], [0, 1], [2, 1]], [1, 0, 0, 1]) == {
        "accuracy": 0.5}


def test_regression():
    rng = np.random.default_rng(0)
    truth, outputs = rng.normal(size=(2, 30, 3))
    found = judged("regression", outputs, truth)
    assert found["r2"] == pytest.approx(1 - ((outputs - truth) ** 2).sum()
                                        / ((truth - truth.mean(axis=0)) ** 2).sum())
    assert found["rmse"] == pytest.approx(np.sqrt(((outputs - truth) ** 2).mean()))
    one = judged("regression", outputs[:, :1], truth[:, 0])
    assert one["r2"] == pytest.approx(r2_score(truth[:, 0], outputs[:, 0]))
    assert judged("regression", [[1], [3]], [2, 2]) == {"r2": None, "rmse": 1}


def test_retrieval():
    """Two questions and answers out of order: the first finds its own second, behind another."""
    outputs = [[1, 0], [0, 5], [0.8, 0.6], [0, 1]]
    assert judged("retrieval", outputs, [7, 9, 7, 9]) == {
        "recall_1": 1.0, "recall_5": 1.0, "reciprocal_rank": 1.0}
    assert judged("retrieval", outputs, [7, 9, 9, 7]) == {
        "recall_1": 0.0, "recall_5": 1.0, "reciprocal_rank": 0.5}
    assert judged("retrieval", np.zeros((4, 2)), [1, 1, 2, 2])["recall_1"] == 0


def test_ranks_count_what_is_as_near_as_the_answer():
    answers = np.eye(3, dtype=np.float32)
    questions = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0]], np.float32)
    np.testing.assert_array_equal(evaluate.ranks(questions, answers), [1, 2, 3])
    np.testing.assert_array_equal(evaluate.ranks(answers[[0, 0, 2]], answers[[0, 0, 2]]),
                                  [2, 2, 1])


def test_some_samples_are_judged_alone_but_for_retrieval():
    truth, outputs = np.array([0, 1, 1, 0]), np.eye(2)[[0, 1, 0, 1]]
    for name, expected in (("classification", {"accuracy": 1.0}), ("retrieval", {})):
        assert evaluate.judge(evaluate.task(name), truth, 4, 2)(outputs[:2]) == expected


def test_what_is_not_finite_is_no_metric():
    assert judged("regression", [[np.nan], [1]], [1, 2]) == {"r2": None, "rmse": None}


@pytest.mark.parametrize(("name", "truth", "message"), [
    ("classification", [0, 1, 2], "class 2, but the model has 2 outputs; number the classes fr"),
    ("classification", [0, -1, 1], "class -1, but"),
    ("classification", [0.0, 1, 1], r"labels is float64 \[3\]; give one integer for each"),
    ("classification", [[0], [1], [1]], r"labels is int64 \[3, 1\]"),
    ("classification", [0, 1], "labels has 2 entries for 3 samples; give one for each"),
    ("retrieval", [1, 1, 2], "labels has 2 1 times; give each label twice"),
    ("regression", [1, 2, 3], r"targets is \[3\], but the model has 2 outputs"),
    ("regression", [[1, 2], [3, 4], [5, np.nan]], "targets holds values that are not finite"),
])
def test_a_truth_that_cannot_be(name, truth, message):
    with pytest.raises(BadInput, match=message):
        judged(name, np.zeros((3, 2)), truth)


def test_an_unknown_task():
    with pytest.raises(BadInput, match="no task 'sort'; choose one of classification, regression"):
        evaluate.task("sort")


def test_a_float_model_runs_as_its_file_has_it_or_through_its_graph(tmp_path):
    """A ``.pt2`` file has become a graph by then."""
    rng = np.random.default_rng(0)
    network = Network(tuple(Linear(name, rng.normal(size=(4, 4)).astype(np.float32),
                                   np.ones(4, np.float32), "relu") for name in "ab"))
    to_onnx(network, tmp_path / "m.onnx")
    x = rng.normal(size=(6, 4)).astype(np.float32)
    graph = read(tmp_path / "m.onnx")
    given, expected = {graph.inputs[0]: x}, network.forward(x)[-1]
    for path in (tmp_path / "m.onnx", tmp_path / "m.pt2"):
        np.testing.assert_allclose(evaluate.of_model(graph, path, given), expected, atol=1e-5)
