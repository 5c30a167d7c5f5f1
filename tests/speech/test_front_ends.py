"""Every front end against its definition, computed another way."""

import math

import numpy as np
import pytest

from cosim.errors import CosimError
from cosim.models import FrontEnd
from cosim.speech.features import features, log_mel

ESPNET = FrontEnd("espnet_log_mel", mels=80)
KALDI = FrontEnd("kaldi_fbank", mels=80)


def speech(count):
    """Noise with a tone and a silent stretch, within [-1, 1]."""
    rng = np.random.default_rng(3)
    samples = rng.normal(0, 0.05, count) + 0.3 * np.sin(np.arange(count) * 0.11)
    samples[count // 3 : count // 2] = 0.0
    return samples.astype(np.float32)


def triangles(edges, bins):
    """Triangle i rises from edges[i] to edges[i + 1] and falls to edges[i + 2]."""
    rows = np.zeros((len(edges) - 2, len(bins)))
    for row, low, centre, high in zip(rows, edges, edges[1:], edges[2:], strict=False):
        for j, x in enumerate(bins):
            if low < x <= centre:
                row[j] = (x - low) / (centre - low)
            elif centre < x < high:
                row[j] = (high - x) / (high - centre)
    return rows


def slaney_filters(mels, fft):
    """librosa.filters.mel(sr=16000, norm="slaney"), from its documented formulas."""
    top = 15 + 27 * math.log(8.0) / math.log(6.4)
    steps = [top * i / (mels + 1) for i in range(mels + 2)]
    edges = [s * 200 / 3 if s < 15 else 1000 * 6.4 ** ((s - 15) / 27) for s in steps]
    rows = triangles(edges, [j * 16000 / fft for j in range(fft // 2 + 1)])
    return rows * np.array([[2 / (b - a)] for a, b in zip(edges, edges[2:], strict=False)])


def espnet(samples, fft, hop, width):
    torch = pytest.importorskip("torch")
    spectrum = torch.stft(
        torch.from_numpy(samples.astype(np.float64)),
        fft,
        hop,
        width,
        window=torch.hann_window(width, dtype=torch.float64),
        return_complex=True,
    )
    power = (spectrum.real**2 + spectrum.imag**2).numpy()
    return np.log(np.maximum(slaney_filters(80, fft) @ power, 1e-10)).T


@pytest.mark.parametrize(
    ("count", "fft", "hop", "width"),
    [
        (16000, 512, 160, None),
        (16001, 512, 128, None),
        (15999, 512, 160, 400),
        (257, 512, 160, 400),
        (9600, 400, 256, 399),
    ],
)
def test_espnet_log_mel_is_log_of_librosas_bands_of_torchs_stft(count, fft, hop, width):
    front = FrontEnd("espnet_log_mel", mels=80, fft=fft, hop=hop, window_samples=width)
    samples = speech(count)
    found = features(samples, front)
    assert found.dtype == np.float32
    assert found.shape == (front.length(count), 80)
    np.testing.assert_allclose(found, espnet(samples, fft, hop, width or fft), atol=2e-6)


def test_the_frames_of_long_audio_are_those_of_its_parts():
    samples = speech(2100 * 160)  # more than one block of frames
    whole = features(samples, ESPNET)
    part = features(samples[2000 * 160 :], ESPNET)
    np.testing.assert_allclose(whole[2010:2090], part[10:90], atol=1e-6)


def kaldi(samples, hop):
    """Povey et al. 2011: frames of 25 ms, each without its mean, pre-emphasised and windowed."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    audio = samples.astype(np.float64) * 32768
    mel_of = lambda hz: 1127.0 * np.log(1.0 + hz / 700.0)  # noqa: E731
    edges = np.linspace(mel_of(20.0), mel_of(8000.0), 82)
    filters = triangles(list(edges), list(mel_of(np.arange(256) * 31.25)))  # without 8 kHz
    rows = []
    for start in range(0, len(audio) - 399, hop):
        frame = audio[start : start + 400] - audio[start : start + 400].mean()
        frame = np.append(frame[0] * 0.03, frame[1:] - 0.97 * frame[:-1]) * window
        power = np.abs(np.fft.rfft(frame, 512)) ** 2
        rows.append(np.log(np.maximum(filters @ power[:256], np.finfo(np.float32).eps)))
    return np.array(rows)


@pytest.mark.parametrize(("count", "hop"), [(16000, 160), (400, 160), (9999, 128)])
def test_kaldi_fbank_follows_kaldis_definition_without_dither(count, hop):
    pytest.importorskip("kaldi_native_fbank")
    front = FrontEnd("kaldi_fbank", mels=80, hop=hop)
    samples = speech(count)
    found = features(samples, front)
    assert found.shape == (front.length(count), 80)
    expected = kaldi(samples, hop)
    # a silent frame is rounding noise after its mean is taken; single precision is theirs
    loud = expected.min(axis=1) > 0
    assert loud.any()
    np.testing.assert_allclose(found[loud], expected[loud], atol=5e-4)


@pytest.mark.parametrize("front", [ESPNET, KALDI], ids=lambda front: front.kind)
def test_bands_are_normalised_before_the_columns_of_zeros_are_added(front):
    if front.kind == "kaldi_fbank":
        pytest.importorskip("kaldi_native_fbank")
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=80), rng.uniform(0.5, 2.0, 80)
    changed = FrontEnd(front.kind, mels=80, zeros=3, mean=tuple(mean), scale=tuple(scale))
    samples = speech(16000)
    found = features(samples, changed)
    assert found.shape == (front.length(16000), 83)
    assert not found[:, 80:].any()
    np.testing.assert_allclose(found[:, :80], (features(samples, front) - mean) * scale, atol=1e-5)


def test_statistics_of_another_size_are_refused_together():
    front = FrontEnd("espnet_log_mel", mels=80, mean=(0.0,) * 83, scale=(1.0,) * 40)
    with pytest.raises(CosimError) as caught:
        features(speech(16000), front)
    assert caught.value.problems == [
        "front end: mean: found 83 values, expected one for each of 80 mels",
        "front end: scale: found 40 values, expected one for each of 80 mels",
    ]


def test_a_waveform_stays_as_it_is_unless_it_is_normalised():
    samples = speech(16000)
    np.testing.assert_array_equal(features(samples, FrontEnd("waveform")), samples)
    found = features(samples * 3 + 1, FrontEnd("waveform", is_normalized=True))
    exact = samples.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-7 / 9)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_variance_of_silence_is_not_divided_by():
    silent = features(np.full(100, 0.25, np.float32), FrontEnd("waveform", is_normalized=True))
    assert not silent.any()
    faint = np.array([1e-4, -1e-4], np.float32)  # variance 1e-8, a tenth of the floor
    found = features(faint, FrontEnd("waveform", is_normalized=True))
    np.testing.assert_allclose(found, faint / math.sqrt(1.1e-7), rtol=1e-6)


def test_padding_has_no_part_in_the_statistics():
    samples = speech(8000)
    normal = features(samples, FrontEnd("waveform", is_normalized=True))
    padded = features(samples, FrontEnd("waveform", is_normalized=True, window_s=1.0))
    np.testing.assert_array_equal(padded, np.append(normal, np.zeros(8000, np.float32)))


def test_a_window_pads_log_mels_with_silence():
    samples = speech(8000)
    silence = np.append(samples, np.zeros(8000, np.float32))
    for kind in ("espnet_log_mel", "whisper_log_mel"):
        short = features(samples, FrontEnd(kind, mels=80, fft=400, window_s=1.0))
        np.testing.assert_array_equal(short, features(silence, FrontEnd(kind, mels=80, fft=400)))


def test_whispers_front_end_is_its_log_mel_of_thirty_seconds():
    samples = speech(30000)
    front = FrontEnd("whisper_log_mel", mels=80, fft=400, window_s=30.0)
    found = features(samples, front)
    assert found.shape == (80, front.length(30000)) == (80, 3000)
    np.testing.assert_array_equal(found, log_mel(samples))


@pytest.mark.parametrize(
    ("front", "count", "said"),
    [
        (ESPNET, 256, "found 256 samples of audio, expected more than 256, half a window"),
        (KALDI, 399, "found 399 samples of audio, expected 400 for one frame"),
        (FrontEnd("waveform"), 0, "found no samples of audio"),
        (FrontEnd("waveform", window_s=0.5), 8001, "found 0.50 s of audio, expected at most 0.5 s"),
    ],
    ids=["espnet", "kaldi", "waveform", "window"],
)
def test_audio_of_a_length_without_meaning_is_refused(front, count, said):
    if front.kind == "kaldi_fbank":
        pytest.importorskip("kaldi_native_fbank")
    with pytest.raises(CosimError, match=said):
        features(np.zeros(count, np.float32), front)
