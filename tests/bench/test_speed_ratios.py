"""Speed against torch, as ratios of alternating runs on one thread; `make bench` runs them.

The gates are the targets less 10 % for a busy machine; no absolute time is asserted. `make bench`
sets the libraries to one thread before they are loaded.
"""

import pytest
import torch

from cosim.bench import cases, measure, whisper_rows
from cosim.errors import CosimError
from cosim.speech.manifest import SpeechConfig
from cosim.speech.selection import select
from kernels import peaks

pytestmark = pytest.mark.benchmark

# case -> least ratio to torch fp32
GATES = {
    "f32_dense/384x1536-T1500": 0.95,
    "w8a8/384x1536-T1500": 1.5,
    "w4a8/384x1536-T1500": 2.4,
    "f32_dense/384x384-T1": 1.0,
    "w8a8/384x51864-T1": 3.0,
    "w4a8/384x51864-T1": 5.0,
    "w8a32/384x51864-T1": 2.5,
    "attention_f32/64x1500-T1500": 0.9,
    "attention_i8/64x1500-T1500": 1.2,
}


@pytest.fixture(scope="module")
def limits():
    torch.set_num_threads(1)
    return {name: peak.rate / 1e9 for name, peak in peaks.calibrate().items()}


@pytest.mark.parametrize("name", GATES)
def test_a_kernel_is_faster_than_torch(name, limits, benchmark):
    case = next(cases(name, limits))
    row = measure(case, rounds=15)
    benchmark.group = case.shape
    benchmark.extra_info.update(row)
    benchmark(case.ours)
    assert row["ratio_torch"] >= GATES[name]


def test_whole_transcriptions_are_faster_than_torch(benchmark):
    torch.set_num_threads(1)
    try:
        speech = select(
            SpeechConfig(corpus="prompts", split="test", limit=6), progress=lambda _text: None
        )
    except CosimError as error:
        pytest.skip(str(error))
    rows = benchmark.pedantic(
        lambda: list(whisper_rows(speech.utterances, rounds=3)), rounds=1, iterations=1
    )
    ratios = {row["kernel"]: row["ratio_torch"] for row in rows}
    benchmark.extra_info.update(ratios)
    assert ratios["whisper_fp32"] >= 0.9
    assert ratios["whisper_w8a8"] >= 1.2
