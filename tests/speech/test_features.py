"""Whisper's log-mel against an independent computation with torch.stft."""

import math

import numpy as np
import pytest

from cosim.errors import CosimError
from cosim.speech.features import log_mel, mel_filters


def slaney_hz(mel):
    """Slaney's scale as Auditory Toolbox lists it: 13 linear steps of 200/3 Hz, then factors."""
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def oracle_filters():
    top = 15 + 27 * math.log(8.0) / math.log(6.4)
    edges = [slaney_hz(top * i / 81) for i in range(82)]
    filters = np.zeros((80, 201))
    for i in range(80):
        low, centre, high = edges[i : i + 3]
        for j in range(201):
            hz = j * 40.0
            if low < hz <= centre:
                filters[i, j] = (hz - low) / (centre - low)
            elif centre < hz < high:
                filters[i, j] = (high - hz) / (high - centre)
            filters[i, j] *= 2 / (high - low)
    return filters


def oracle(samples):
    torch = pytest.importorskip("torch")
    audio = torch.zeros(480000, dtype=torch.float64)
    audio[: samples.size] = torch.from_numpy(samples.astype(np.float64))
    window = torch.hann_window(400, dtype=torch.float64)
    power = torch.stft(audio, 400, 160, window=window, return_complex=True)[:, :-1].abs() ** 2
    logs = torch.clamp(torch.from_numpy(oracle_filters()) @ power, min=1e-10).log10()
    return ((torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0).numpy()


def noise(count):
    return np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 3000, 70001, 479500, 479601, 479700, 480000])
def test_log_mel_equals_the_stft_of_the_padded_window(count):
    samples = noise(count)
    features = log_mel(samples)
    assert features.shape == (80, 3000)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, oracle(samples), atol=1e-6)


def test_filters_follow_slaneys_scale_with_unit_area():
    filters = mel_filters()
    np.testing.assert_allclose(filters, oracle_filters(), atol=1e-12)
    # wide triangles are sampled finely enough by 40 Hz bins for their area to be near 1
    np.testing.assert_allclose(filters[60:].sum(axis=1) * 40.0, 1.0, atol=0.02)


def test_more_than_thirty_seconds_is_refused():
    with pytest.raises(CosimError, match=r"found 31\.00 s of audio, expected at most 30 s"):
        log_mel(np.zeros(31 * 16000, dtype=np.float32))


def test_the_example_of_the_range_holds():
    features = log_mel(noise(16000))
    assert features.max() - features.min() == pytest.approx(2.0, abs=1e-6)  # 8 decades over 4
