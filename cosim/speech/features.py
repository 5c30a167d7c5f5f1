"""Log-mel features as Whisper defines them (Radford et al. 2022, section 2.2), in numpy."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cosim.errors import CosimError

RATE_HZ = 16000
WINDOW_S = 30.0
MELS = 80
FFT = 400  # 25 ms
HOP = 160  # 10 ms
FRAMES = int(WINDOW_S * RATE_HZ) // HOP
_FLOOR = 1e-10
_LINEAR_HZ = 200.0 / 3.0  # Hz per mel below 1 kHz
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0  # per mel above 1 kHz


def mel_filters(mels: int = MELS) -> NDArray[np.float64]:
    """Return triangular filters float64[mels, FFT // 2 + 1] over 0 to 8 kHz.

    Centres are equally spaced on Slaney's mel scale (Slaney 1998, Auditory Toolbox: linear up to
    1 kHz, 27 mels per factor of 6.4 above) and every triangle has unit area in Hz.
    """
    edges_hz = _mel_to_hz(np.linspace(0.0, _hz_to_mel(RATE_HZ / 2), mels + 2))
    bins_hz = np.arange(FFT // 2 + 1) * (RATE_HZ / FFT)
    low, centre, high = (edges_hz[i : mels + i, None] for i in range(3))
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (high - low)), dtype=np.float64)


def log_mel(samples: NDArray[np.float32], mels: int = MELS) -> NDArray[np.float32]:
    """Return float32[mels, 3000] for up to 30 s of 16 kHz audio float32[samples].

    The audio is padded with zeros to 30 s. Power spectrum of 25 ms periodic Hann windows every
    10 ms, centred with reflected ends, last frame dropped; mel filters; log10 of at least 1e-10; at
    most 8 below the largest value; (x + 4) / 4. Raises CosimError for longer audio: nothing is cut.
    """
    length = int(WINDOW_S * RATE_HZ)
    if samples.size > length:
        seconds = samples.size / RATE_HZ
        raise CosimError(f"found {seconds:.2f} s of audio, expected at most {WINDOW_S:.0f} s")
    padded = np.zeros(length + FFT, dtype=np.float64)
    padded[FFT // 2 : FFT // 2 + samples.size] = samples
    padded[: FFT // 2] = padded[FFT : FFT // 2 : -1]
    padded[-(FFT // 2) :] = padded[-(FFT // 2) - 2 : -FFT - 2 : -1]
    # Frames that only see padding have no power: their logarithm is the floor.
    sounding = min(FRAMES, -(-(samples.size + FFT // 2) // HOP))
    if samples.size > length - FFT:
        sounding = FRAMES
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP][:sounding]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FFT) / FFT)
    spectrum = np.fft.rfft(frames * window, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    mel = np.full((mels, FRAMES), np.log10(_FLOOR))
    mel[:, :sounding] = np.log10(np.maximum(_filters(mels) @ power.T, _FLOOR))
    mel = np.maximum(mel, mel.max() - 8.0)
    return np.asarray((mel + 4.0) / 4.0, dtype=np.float32)


@lru_cache(maxsize=4)
def _filters(mels: int) -> NDArray[np.float64]:
    return mel_filters(mels)


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ
    return float(_BREAK_HZ / _LINEAR_HZ + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    break_mel = _BREAK_HZ / _LINEAR_HZ
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mel - break_mel))
    return np.where(mel < break_mel, mel * _LINEAR_HZ, logarithmic)
