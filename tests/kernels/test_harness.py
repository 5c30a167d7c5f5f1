import gc
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kernels import encodings, harness, panels, peaks
from kernels.jit import host_features


class _Clock:
    """A clock that moves only when a callable says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_callables_take_turns_after_their_warm_up():
    clock, log = _Clock(), []

    def call(name: str) -> None:
        log.append(name)
        clock.spend(1.0)

    names = ("a", "b", "c")
    harness.alternate({n: lambda n=n: call(n) for n in names}, rounds=3, clock=clock)
    assert "".join(log[-9:]) == "abcabcabc"
    assert "".join(log[:-9]) == "aabbcc"  # one to warm up, one to find how long a call takes


def test_a_sample_is_the_time_of_one_call_however_often_it_repeats():
    clock = _Clock()
    called = {"quick": 0, "slow": 0}

    def spend(name: str, seconds: float) -> None:
        called[name] += 1
        clock.spend(seconds)

    samples = harness.alternate(
        {"quick": lambda: spend("quick", 1e-6), "slow": lambda: spend("slow", 0.5)},
        rounds=4,
        clock=clock,
    )
    assert samples["quick"].median_s == pytest.approx(1e-6)
    assert samples["slow"].best_s == pytest.approx(0.5)
    assert called["quick"] * 1e-6 >= 4 * harness.SAMPLE_S
    assert called["slow"] == 6


def test_the_median_and_the_least_are_over_rounds():
    clock = _Clock()
    times = iter([9.0, 9.0, 5.0, 1.0, 2.0])  # warm-up, first guess, three rounds
    samples = harness.alternate({"a": lambda: clock.spend(next(times))}, rounds=3, clock=clock)
    assert samples["a"] == harness.Sample((5.0, 1.0, 2.0))
    assert (samples["a"].median_s, samples["a"].best_s) == (2.0, 1.0)


def test_a_short_call_is_repeated_untimed_before_each_of_its_samples():
    clock, hot, cold = _Clock(), [], []

    def call(log: list) -> None:
        log.append(clock.now)
        clock.spend(1e-3)

    harness.alternate({"a": lambda: call(hot)}, rounds=5, clock=clock)
    harness.alternate({"a": lambda: call(cold)}, rounds=5, clock=clock, is_hot=False)
    assert (len(hot), len(cold)) == (2 + 2 * 5, 2 + 5)


def test_a_ratio_is_the_median_over_rounds_with_order_statistics_around_it():
    slow = harness.Sample(tuple(float(v) for v in (8, 2, 6, 4, 10, 12, 14, 16, 18)))
    fast = harness.Sample((2.0,) * 9)
    found = harness.ratio(slow, fast)
    assert found.median == 5.0
    # of nine, the second smallest and second largest: 1 - 2 * (1 + 9) / 2**9
    assert (found.low, found.high) == (2.0, 8.0)
    assert found.coverage == pytest.approx(1 - 20 / 512)


@pytest.mark.parametrize(("rounds", "rank"), [(6, 1), (8, 1), (9, 2), (15, 4), (25, 8), (40, 14)])
def test_the_interval_is_the_narrowest_that_holds_the_median_with_95_percent(rounds, rank):
    # ranks of the table of Conover, Practical Nonparametric Statistics, 3rd ed. 1999, A3
    values = tuple(float(v) for v in range(1, rounds + 1))
    found = harness.ratio(harness.Sample(values), harness.Sample((1.0,) * rounds))
    assert (found.low, found.high) == (rank, rounds + 1 - rank)
    assert found.coverage >= 0.95


def test_fewer_than_six_rounds_give_the_range_and_say_what_it_is_worth():
    found = harness.ratio(harness.Sample((3.0, 1.0, 2.0)), harness.Sample((1.0, 1.0, 1.0)))
    assert (found.low, found.high, found.coverage) == (1.0, 3.0, 0.75)
    one = harness.ratio(harness.Sample((3.0,)), harness.Sample((1.0,)))
    assert (one.low, one.high, one.coverage) == (3.0, 3.0, 0.0)


def test_a_ratio_pairs_rounds_and_so_survives_a_machine_that_slows_down():
    slow = harness.Sample((2.0, 20.0, 200.0, 2.0))
    fast = harness.Sample((1.0, 10.0, 100.0, 1.0))
    assert harness.ratio(slow, fast) == harness.Ratio(2.0, 2.0, 2.0, 0.875)
    with pytest.raises(ValueError, match="as many"):
        harness.ratio(slow, harness.Sample((1.0,)))


def test_a_rotation_reads_every_layer_before_any_again():
    log = []
    one = harness.rotation([lambda i=i: log.append(i) for i in range(3)])
    for _ in range(7):
        one()
    assert log == [0, 1, 2, 0, 1, 2, 0]


def test_cold_layers_exceed_the_last_cache():
    last = max(peaks.cache_sizes().values(), default=0)
    for size in (1, 4096, 9 << 20, 1 << 30):
        layers = harness.cold_layers(size)
        assert layers >= 24
        assert layers * size >= max(64 << 20, 2 * last)


def test_a_clock_too_coarse_for_a_call_is_met_with_more_calls():
    class Coarse(_Clock):
        def __call__(self) -> float:
            return int(self.now / 1e-3) * 1e-3

    clock = Coarse()
    sample = harness.alternate({"a": lambda: clock.spend(1e-5)}, rounds=30, clock=clock)["a"]
    assert sample.median_s == pytest.approx(1e-5, rel=0.5)


def test_garbage_is_collected_again_afterwards_even_when_a_callable_raises():
    seen = []

    def fail_when_measured() -> None:
        seen.append(gc.isenabled())
        if not gc.isenabled():
            raise RuntimeError("now")

    with pytest.raises(RuntimeError, match="now"):
        harness.alternate({"a": fail_when_measured}, rounds=1)
    assert seen[-1] is False
    assert gc.isenabled()


def test_a_sample_during_which_the_clock_stood_still_is_taken_again():
    clock = _Clock()
    times = iter([9.0, 9.0, 5.0, 0.0, 0.0, 1.0, 2.0])  # warm-up, first guess, three rounds
    samples = harness.alternate({"a": lambda: clock.spend(next(times))}, rounds=3, clock=clock)
    assert samples["a"] == harness.Sample((5.0, 1.0, 2.0))


def test_peaks_do_not_hang_on_a_clock_of_the_thread_that_stands_still(monkeypatch):
    monkeypatch.setattr(time, "thread_time", lambda: 1.0)
    assert all(np.isfinite(peak.rate) for peak in peaks.calibrate().values())


@pytest.mark.parametrize(("calls", "rounds"), [({}, 3), ({"a": lambda: None}, 0)])
def test_nothing_to_measure_is_refused(calls, rounds):
    with pytest.raises(ValueError, match="expected one or more"):
        harness.alternate(calls, rounds=rounds)


@pytest.fixture(scope="module")
def measured():
    return {name: peak.rate for name, peak in peaks.calibrate().items()}


def test_peaks_are_those_of_a_cpu_and_of_memory(measured):
    mixes, streams = ("pmaddwd", "pmaddubsw_pmaddwd", "pmaddubsw"), ("L2", "L3", "DRAM")
    assert sorted(measured) == sorted(("fma", *mixes, "pshufb", *streams))
    # 1 GHz with one lane to 8 GHz with two 512-bit units; a tenth of one DDR4 channel to an HBM
    assert 2e9 < measured["fma"] < 8e9 * 64
    assert all(2e9 < measured[name] < 8e9 * 256 for name in mixes)
    assert 2e9 < measured["pshufb"] < 8e9 * 1024
    assert all(2e9 < measured[name] < 8e9 * 256 for name in streams)


@pytest.mark.skipif(not host_features() >= {"avx2", "fma"}, reason="needs AVX2 and FMA")
def test_narrower_sums_have_higher_peaks_and_farther_memory_a_lower_one(measured):
    order = ("fma", "pmaddwd", "pmaddubsw_pmaddwd", "pmaddubsw", "pshufb")
    rates = [measured[name] for name in order]
    assert all(a < 1.1 * b for a, b in itertools.pairwise(rates))
    assert measured["pmaddubsw"] > 1.5 * measured["fma"]
    assert measured["L2"] > 1.2 * measured["DRAM"]


def test_plain_loops_have_the_same_peaks_by_name():
    code = "from kernels.peaks import calibrate; print(sorted(calibrate()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COSIM_GENERIC_KERNELS": "1"},
        cwd=Path(__file__).resolve().parents[2],
    )
    expected = ["DRAM", "L2", "L3", "fma", "pmaddubsw", "pmaddubsw_pmaddwd", "pmaddwd", "pshufb"]
    assert done.stdout.strip() == str(expected)


@pytest.mark.skipif(not host_features() >= {"avx2", "fma"}, reason="needs AVX2 and FMA")
def test_no_kernel_exceeds_the_peak(measured):
    n = 192
    x = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    out = np.empty_like(x)
    panel = panels.prepare_linear(encodings.encode_dense(x), rows=n)
    call = {"a": lambda: panels.linear(panel, x, out)}
    best = harness.alternate(call, rounds=9, clock=time.perf_counter)["a"].best_s
    assert 2 * n**3 / best < 1.1 * measured["fma"]
