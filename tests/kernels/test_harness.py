import gc

import numpy as np
import pytest

from kernels import encodings, harness, panels
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
    assert samples["a"] == harness.Sample(median_s=2.0, best_s=1.0)


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


@pytest.mark.parametrize(("calls", "rounds"), [({}, 3), ({"a": lambda: None}, 0)])
def test_nothing_to_measure_is_refused(calls, rounds):
    with pytest.raises(ValueError, match="expected one or more"):
        harness.alternate(calls, rounds=rounds)


def test_peaks_are_those_of_a_cpu_and_of_memory():
    peaks = harness.calibrate()
    assert sorted(peaks) == ["fma", "pmaddwd", "stream"]
    # 1 GHz with one lane to 8 GHz with two 512-bit units; a tenth of one DDR4 channel to an HBM
    assert 2e9 < peaks["fma"] < 8e9 * 64
    assert 2e9 < peaks["pmaddwd"] < 8e9 * 256
    assert 2e9 < peaks["stream"] < 1e12
    if host_features() >= {"avx2", "fma"}:
        assert peaks["fma"] > 3 * peaks["stream"] / 4  # more than memory could feed


@pytest.mark.skipif(not host_features() >= {"avx2", "fma"}, reason="needs AVX2 and FMA")
def test_no_kernel_exceeds_the_peak():
    n = 192
    x = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    out = np.empty_like(x)
    panel = panels.prepare_linear(encodings.encode_dense(x), rows=n)
    best = harness.alternate({"a": lambda: panels.linear(panel, x, out)}, rounds=9)["a"].best_s
    assert 2 * n**3 / best < 1.1 * harness.calibrate()["fma"]
