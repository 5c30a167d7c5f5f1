"""Speed against torch and against the CPU's limits, on one thread; `make bench` runs them.

A case is one test: its ratios come from an alternating run, which pytest-benchmark cannot do, and
go into ``extra_info`` beside pytest-benchmark's own times. A gate is the goal less 10 % for a busy
machine; no absolute time is asserted. `make bench` sets the libraries to one thread before they are
loaded. To compare two commits, run both with `--benchmark-save=NAME` and then
`pytest-benchmark compare`.
"""

import pytest
import torch

from cosim.bench import plans
from cosim.bench.cases import AbsentError
from cosim.bench.measure import row_of
from cosim.bench.networks import encoder_rows
from cosim.bench.targets import BREAK_EVEN_SPARSITY, NETWORK, NUMPY_F32, TARGETS, target_of
from cosim.bench.whole import whisper_rows
from cosim.errors import CosimError
from cosim.speech.manifest import SpeechConfig
from cosim.speech.selection import select
from kernels import peaks

pytestmark = pytest.mark.benchmark

MARGIN = 0.9
INFORMATION = (
    *("gops", "share_of_limit", "limit", "ratio_torch", "ratio_torch_interval", "ratio_numpy"),
    *("ratio_torch_quantizing", "bytes", "operations_per_byte", "error", "kernel_used", "peers"),
)
# case -> least ratio to torch fp32: what no goal is set for must not fall behind either
GATES = {
    "f32_dense/384x1536-T1500": 0.95,
    "w8a8/384x1536-T1500": 1.5,
    "w4a8/384x1536-T1500": 2.4,
    "f32_dense/384x384-T1": 1.0,
    "w8a8/384x51864-T1": 3.0,
    "w4a8/384x51864-T1": 5.0,
    "w8a32/384x51864-T1": 2.5,
    "attention_f32/6x64x1500-T1500": 0.9,
    "attention_i8/6x64x1500-T1500": 1.2,
    "attention_f32/12x64x499-T499": 0.9,
    "attention_i8/12x64x499-T499": 1.0,
    "softmax/499-T5988": 0.9,
    "gelu/3072-T499": 0.9,
    "layer_norm/768-T499": 0.9,
}
PLANS = {plan.id: plan for plan in plans()}
GOALS = {
    name: MARGIN * goal
    for name, plan in PLANS.items()
    if (goal := target_of(plan.kernel, plan.shape, is_cold=plan.is_cold)) is not None
}


@pytest.fixture(scope="module")
def limits():
    torch.set_num_threads(1)
    return peaks.calibrate()


def measured(name, limits, benchmark):
    plan = PLANS[name]
    try:
        case = plan.make()
    except AbsentError as error:
        pytest.skip(str(error))
    row = row_of(plan, case, limits)
    benchmark.group = plan.shape + ("-cold" if plan.is_cold else "")
    benchmark.extra_info.update({key: row[key] for key in INFORMATION if key in row})
    benchmark.extra_info["machine_peaks"] = {key: peak.rate for key, peak in limits.items()}
    benchmark.pedantic(case.sides["ours"].run, rounds=15, warmup_rounds=1, iterations=3)
    return row


@pytest.mark.parametrize("name", GOALS | GATES)
def test_a_kernel_reaches_its_ratio_to_torch(name, limits, benchmark):
    row = measured(name, limits, benchmark)
    assert row["ratio_torch"] >= (GOALS | GATES)[name]
    if row["kernel"] == "f32_dense" and row["shape"].endswith("T499"):
        assert row["ratio_numpy"] >= MARGIN * NUMPY_F32
    target = TARGETS.get(row["kernel"])
    if target is not None and target.share is not None and row["shape"].endswith("T499"):
        assert row["share_of_limit"] >= MARGIN * target.share


@pytest.mark.parametrize("name", [name for name in PLANS if name.startswith("csr_break_even/")])
def test_unstructured_zeros_pay_from_a_quarter_on(name, limits, benchmark):
    row = measured(name, limits, benchmark)
    benchmark.extra_info["ratio_dense_by_sparsity"] = row["ratio_dense_by_sparsity"]
    if name.endswith("T499"):
        assert row["ratio_dense_by_sparsity"][f"{BREAK_EVEN_SPARSITY:.2f}"] >= MARGIN


def test_whole_transcriptions_reach_their_ratio_to_torch(benchmark):
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
    benchmark.group = "whisper"
    benchmark.extra_info.update(ratios)
    assert ratios["whisper_fp32"] >= 0.9
    for name in ratios.keys() & NETWORK.keys():
        assert ratios[name] >= MARGIN * NETWORK[name]
    for row in rows:
        peer = row["peers"].get("ctranslate2_int8")
        if peer is not None and row["kernel"] in NETWORK:
            assert peer["ratio_ours"] > 1


def test_a_whole_encoder_reaches_its_ratio_and_beats_every_int8_engine_of_torch(benchmark):
    torch.set_num_threads(1)
    rows = benchmark.pedantic(
        lambda: list(encoder_rows("encoder_", rounds=5)), rounds=1, iterations=1
    )
    benchmark.group = "encoder"
    benchmark.extra_info.update({row["kernel"]: row["ratio_torch"] for row in rows})
    for row in rows:
        if row["kernel"] in NETWORK:
            assert row["ratio_torch"] >= MARGIN * NETWORK[row["kernel"]]
            assert all(peer["ratio_ours"] > 1 for peer in row["peers"].values())
