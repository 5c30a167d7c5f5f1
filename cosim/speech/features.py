"""From 16 kHz audio to what an encoder takes: the front ends of the model families, in numpy."""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cosim.errors import CosimError
from cosim.models import FrontEnd

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RATE_HZ = 16000
WINDOW_S = 30.0
MELS = 80
FFT = 400  # 25 ms
HOP = 160  # 10 ms
_FLOOR = 1e-10
_FULL_SCALE = 32768.0  # Kaldi reads 16-bit integers
_VARIANCE_FLOOR = 1e-7
_LINEAR_HZ = 200.0 / 3.0  # Hz per mel below 1 kHz
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0  # per mel above 1 kHz
_BLOCK = 2048  # frames that are transformed at a time


def features(samples: F32, front: FrontEnd) -> F32:
    """Return the encoder's input for 16 kHz audio float32[samples], without the batch axis.

    float32[mels, frames] for Whisper, [frames, mels + zeros] for the other log-mel kinds, [samples]
    for a waveform; the length is `front.length(samples.size)`. Audio is first padded with silence
    to `front.window_s`. Raises CosimError for audio that is longer than that window or too short
    for one frame, and for a mean or scale that does not have a value for each band.

    Example:
        >>> front = FrontEnd("espnet_log_mel", mels=80, zeros=3)
        >>> features(np.zeros(16000, dtype=np.float32), front).shape
        (101, 83)

    """
    uneven = [
        f"front end: {name}: found {len(values)} values, expected one for each of {front.mels} mels"
        for name, values in (("mean", front.mean), ("scale", front.scale))
        if values and len(values) != front.mels
    ]
    if uneven:
        raise CosimError(uneven)
    return _KINDS[front.kind](samples, front)


def mel_filters(mels: int = MELS, fft: int = FFT) -> F64:
    """Return triangular filters float64[mels, fft // 2 + 1] over 0 to 8 kHz.

    Centres are equally spaced on Slaney's mel scale (Slaney 1998, Auditory Toolbox: linear up to
    1 kHz, 27 mels per factor of 6.4 above) and every triangle has unit area in Hz.
    """
    edges_hz = _mel_to_hz(np.linspace(0.0, _hz_to_mel(RATE_HZ / 2), mels + 2))
    bins_hz = np.arange(fft // 2 + 1) * (RATE_HZ / fft)
    low, centre, high = (edges_hz[i : mels + i, None] for i in range(3))
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (high - low)), dtype=np.float64)


def log_mel(
    samples: F32,
    mels: int = MELS,
    *,
    window_s: float | None = WINDOW_S,
    fft: int = FFT,
    hop: int = HOP,
) -> F32:
    """Return Whisper's float32[mels, frames] for 16 kHz audio float32[samples].

    The audio is padded with zeros to `window_s` (3000 frames for 30 s). Power spectrum of periodic
    Hann windows of `fft` samples every `hop`, centred with reflected ends, last frame dropped; mel
    filters; log10 of at least 1e-10; at most 8 below the largest value; (x + 4) / 4 (Radford et al.
    2022, section 2.2). Raises CosimError for longer audio: nothing is cut.
    """
    window = _padded(samples, window_s)
    # Frames that only see padding have no power: their logarithm is the floor.
    count = window.size // hop
    sounding = min(count, -(-(samples.size + fft // 2) // hop))
    if samples.size > window.size - fft:
        sounding = count
    mel = np.full((mels, count), np.log10(_FLOOR))
    mel[:, :sounding] = np.log10(_mel_power(window, sounding, mels, fft=fft, hop=hop).T)
    mel = np.maximum(mel, mel.max() - 8.0)
    return np.asarray((mel + 4.0) / 4.0, dtype=np.float32)


def _whisper(samples: F32, front: FrontEnd) -> F32:
    return log_mel(samples, front.mels, window_s=front.window_s, fft=front.fft, hop=front.hop)


def _espnet(samples: F32, front: FrontEnd) -> F32:
    """ESPnet2's DefaultFrontend and LogMelFbank: as Whisper's but every frame, natural log."""
    window = _padded(samples, front.window_s)
    power = _mel_power(
        window,
        window.size // front.hop + 1,
        front.mels,
        fft=front.fft,
        hop=front.hop,
        width=front.window_samples,
    )
    return _normalized(np.log(power), front)


def _kaldi(samples: F32, front: FrontEnd) -> F32:
    """Kaldi's compute-fbank-feats with its defaults but without dither."""
    try:
        import kaldi_native_fbank as kaldi  # noqa: PLC0415, only this front end needs it
    except ImportError:
        raise CosimError(
            "kaldi_fbank: kaldi-native-fbank is not installed; run: pip install kaldi-native-fbank"
        ) from None

    window = _padded(samples, front.window_s)
    if not front.length(samples.size):
        raise CosimError(f"found {samples.size} samples of audio, expected 400 for one frame")
    frame = kaldi.FrameExtractionOptions(
        samp_freq=RATE_HZ,
        frame_shift_ms=1000.0 * front.hop / RATE_HZ,
        frame_length_ms=25.0,
        dither=0.0,
        preemph_coeff=0.97,
        remove_dc_offset=True,
        window_type="povey",
        round_to_power_of_two=True,
        snip_edges=True,
    )
    bands = kaldi.MelBanksOptions(num_bins=front.mels, low_freq=20.0, high_freq=0.0)
    work = kaldi.OnlineFbank(kaldi.FbankOptions(frame, bands, use_energy=False))
    work.accept_waveform(RATE_HZ, window * np.float32(_FULL_SCALE))
    work.input_finished()
    frames = [work.get_frame(i) for i in range(work.num_frames_ready)]
    return _normalized(np.asarray(frames, dtype=np.float64), front)


def _waveform(samples: F32, front: FrontEnd) -> F32:
    """Return the samples, with mean 0 and variance 1 where the front end says so.

    Silence that pads to `window_s` is no part of the statistics (transformers'
    Wav2Vec2FeatureExtractor).
    """
    if not samples.size:
        raise CosimError("found no samples of audio, expected at least one")
    if front.is_normalized:
        exact = samples.astype(np.float64)
        exact -= exact.mean()
        samples = (exact / np.sqrt(np.mean(exact**2) + _VARIANCE_FLOOR)).astype(np.float32)
    return _padded(samples, front.window_s)


_KINDS: Mapping[str, Callable[[F32, FrontEnd], F32]] = {
    "whisper_log_mel": _whisper,
    "espnet_log_mel": _espnet,
    "kaldi_fbank": _kaldi,
    "waveform": _waveform,
}


def _padded(samples: F32, window_s: float | None) -> F32:
    """Return float32 audio of the window's length, silent where the samples have ended."""
    if window_s is None:
        return np.asarray(samples, dtype=np.float32)
    length = round(window_s * RATE_HZ)
    if samples.size > length:
        seconds = samples.size / RATE_HZ
        raise CosimError(f"found {seconds:.2f} s of audio, expected at most {window_s:g} s")
    padded = np.zeros(length, dtype=np.float32)
    padded[: samples.size] = samples
    return padded


def _mel_power(
    samples: F32, count: int, mels: int, *, fft: int, hop: int, width: int | None = None
) -> F64:
    """Return the power in each band, at least 1e-10, of the first `count` frames [count, mels].

    Frames are centred on multiples of `hop`, ends are reflected; the periodic Hann window of
    `width` samples (None: `fft`) stands in the middle of `fft`.
    """
    half, width = fft // 2, fft if width is None else width
    if samples.size <= half:
        raise CosimError(
            f"found {samples.size} samples of audio, expected more than {half}, half a window"
        )
    padded = np.pad(samples.astype(np.float64), half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, fft)[::hop]
    window = np.zeros(fft)
    start = (fft - width) // 2
    window[start : start + width] = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(width) / width)
    power = np.empty((count, mels))
    for first in range(0, count, _BLOCK):
        block = slice(first, min(first + _BLOCK, count))
        spectrum = np.fft.rfft(frames[block] * window, axis=1)
        power[block] = (spectrum.real**2 + spectrum.imag**2) @ _filters(mels, fft).T
    return np.maximum(power, _FLOOR)


def _normalized(bands: F64, front: FrontEnd) -> F32:
    """Return (x - mean) * scale of bands [frames, mels], with the columns that stand for pitch."""
    if front.mean:
        bands = bands - np.asarray(front.mean)
    if front.scale:
        bands = bands * np.asarray(front.scale)
    return np.pad(bands, ((0, 0), (0, front.zeros))).astype(np.float32)


@lru_cache(maxsize=8)
def _filters(mels: int, fft: int) -> F64:
    return mel_filters(mels, fft)


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ
    return float(_BREAK_HZ / _LINEAR_HZ + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: F64) -> F64:
    break_mel = _BREAK_HZ / _LINEAR_HZ
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mel - break_mel))
    return np.where(mel < break_mel, mel * _LINEAR_HZ, logarithmic)
