"""load_audio: every width and rate that people have; what is broken is refused by name."""

import struct

import numpy as np
import pytest
import soundfile

from cosim.errors import CosimError
from cosim.speech.audio import load_audio

RATE = 16000


def tone(seconds=0.5, rate=RATE, hz=440.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2.0**-7),
        ("a.wav", "PCM_16", 2.0**-15),
        ("a.wav", "PCM_24", 2.0**-23),
        ("a.wav", "PCM_32", 2.0**-24),
        ("a.wav", "FLOAT", 2.0**-24),
        ("a.wav", "DOUBLE", 2.0**-24),
        ("a.flac", "PCM_16", 2.0**-15),
        ("a.flac", "PCM_24", 2.0**-23),
        ("a.ogg", "VORBIS", 0.05),
    ],
)
def test_every_sample_width_gives_the_same_signal(tmp_path, name, subtype, step):
    soundfile.write(tmp_path / name, tone(), RATE, subtype=subtype)
    samples, warnings = load_audio(tmp_path / name)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE // 2,)
    assert np.abs(samples - tone()).max() <= step
    assert warnings == ()


def test_stereo_is_averaged_with_a_warning(tmp_path):
    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([tone(), np.zeros(RATE // 2)], axis=1), RATE, subtype="FLOAT")
    samples, (warning,) = load_audio(path)
    np.testing.assert_allclose(samples, tone() / 2, atol=1e-7)
    assert warning == f"{path}: 2 channels averaged to one"


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_other_rates_are_resampled_with_a_warning(tmp_path, rate):
    path = tmp_path / "rate.wav"
    soundfile.write(path, tone(rate=rate), rate, subtype="FLOAT")
    samples, (warning,) = load_audio(path)
    assert warning == f"{path}: {rate} Hz resampled to 16000 Hz"
    assert abs(samples.size - RATE // 2) <= 1
    inner = slice(800, -800)  # away from the filter's ends
    np.testing.assert_allclose(samples[inner], tone()[: samples.size][inner], atol=2e-3)


def test_a_segment_is_cut_by_seconds(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.arange(RATE) / RATE, RATE, subtype="FLOAT")
    samples, _ = load_audio(path, start_s=0.25, end_s=0.5)
    assert samples.size == RATE // 4
    assert samples[0] == 0.25
    with pytest.raises(CosimError, match=r"long\.wav: found a segment from 0\.5 s to 1\.5 s"):
        load_audio(path, start_s=0.5, end_s=1.5)


def test_too_long_audio_is_refused_with_its_duration(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, tone(1.5), RATE)
    with pytest.raises(
        CosimError, match=r"long\.wav: found 1\.50 s of audio, expected at most 1\.0"
    ):
        load_audio(path, max_seconds=1.0)
    assert load_audio(path, max_seconds=1.5)[0].size == 24000


@pytest.mark.parametrize(("name", "keep"), [("a.wav", 0.5), ("a.wav", 0.999), ("a.flac", 0.5)])
def test_a_truncated_file_is_refused(tmp_path, name, keep):
    path = tmp_path / name
    soundfile.write(path, tone(), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CosimError, match=rf"{name}: truncated"):
        load_audio(path)


@pytest.mark.parametrize("keep", [0.5, 0.95, 0.999])
def test_a_truncated_ogg_is_refused(tmp_path, keep):
    path = tmp_path / "a.ogg"
    rng = np.random.default_rng(0)
    soundfile.write(path, rng.uniform(-0.1, 0.1, RATE), RATE, subtype="VORBIS")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CosimError, match=r"a\.ogg: truncated"):
        load_audio(path)


def test_a_wav_streamed_to_a_pipe_is_read(tmp_path):
    path = tmp_path / "pipe.wav"
    soundfile.write(path, tone(), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert load_audio(path)[0].size == RATE // 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, RATE // 2])
def test_samples_that_are_no_numbers_are_refused(tmp_path, bad, count):
    samples = tone()
    samples[:count] = bad
    path = tmp_path / "nan.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(CosimError, match=rf"nan\.wav: {count} of 8000 samples are NaN or infinite"):
        load_audio(path)


def test_files_without_audio_are_refused_by_name(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.flac").write_text("version https://git-lfs.github.com/spec/v1\n" * 9)
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "other.aiff", tone(), RATE)
    for name, said in {
        "missing.wav": "no such file",
        "empty.wav": "empty file",
        "text.flac": "not audio, expected a WAV, FLAC or OGG file",
        "zero.wav": "zero-length",
        "other.aiff": "found AIFF, expected a WAV, FLAC or OGG file",
        "": "not a file",
    }.items():
        with pytest.raises(CosimError, match=said) as caught:
            load_audio(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
