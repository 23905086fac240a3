"""ONNX's node tests: what passes, what is refused in a sentence, and that a wrong value is seen."""

import os
from dataclasses import replace

import numpy as np
import pytest

from zeroskip.sw.experiments import node_tests

pytestmark = pytest.mark.skipif(not os.environ.get("ZEROSKIP_REGRESSION"), reason="a long run")

DIFFERENT = {
    "test_attention_4d_causal_fp16", "test_dft", "test_dft_axis", "test_dft_inverse",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
    *(f"test_cast_{kind}_to_FLOAT8E4M3FN" for kind in (
        "FLOAT", "FLOAT16", "no_saturate_FLOAT", "no_saturate_FLOAT16")),
    *(f"test_dft_{kind}opset19" for kind in ("", "axis_", "inverse_", "rfft_", "irfft_"))}
"""Those whose values onnxruntime itself misses, run on the test's own model."""


@pytest.fixture(scope="module")
def cases():
    return {case.name: case for case in node_tests.cases()}


def test_passed_or_refused(cases, tmp_path):
    found = [node_tests.run(case, tmp_path) for case in cases.values()]
    assert {each.name for each in found if "differ" in each.reason} == DIFFERENT
    assert sum(each.passed for each in found) >= 1200


def test_a_wrong_value_is_seen(cases, tmp_path):
    case = cases["test_relu"]
    assert node_tests.run(case, tmp_path).passed
    inputs, outputs = case.data_sets[0]
    wrong = [y + np.float32(0.01) for y in outputs]
    assert not node_tests.run(replace(case, data_sets=[(inputs, wrong)]), tmp_path).passed
