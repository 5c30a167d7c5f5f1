"""Audio files to mono float samples at one rate; what is broken is refused by name."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosim.errors import CosimError

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")
_STREAMED_RIFF = 0xFFFFFFFF  # size in the header of a WAV that was written to a pipe
_OGG_LAST_PAGE = 0x04  # header flag "end of stream", RFC 3533 section 6


def load_audio(
    path: Path,
    rate: int = 16000,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    max_seconds: float | None = None,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return mono samples in [-1, 1], float32[samples], at `rate` Hz, and warnings.

    Reads WAV, FLAC and OGG of any sample width. Several channels are averaged and other rates
    resampled, each with a warning. `start_s` and `end_s` cut a segment out. Raises CosimError for a
    missing, empty, truncated or zero-length file, for one that is no audio, holds NaN or infinity,
    or lasts longer than `max_seconds`.
    """
    samples, found_rate = _read(path)
    warnings = []
    if samples.shape[1] > 1:
        warnings.append(f"{path}: {samples.shape[1]} channels averaged to one")
    # float64, so that the mean of large floating-point samples cannot overflow
    mono = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    if not np.isfinite(mono).all():
        bad = int(np.count_nonzero(~np.isfinite(mono)))
        raise CosimError(f"{path}: {bad} of {mono.size} samples are NaN or infinite")
    if start_s or end_s is not None:
        mono = _segment(mono, path, found_rate, start_s, end_s)
    seconds = mono.size / found_rate
    if max_seconds is not None and seconds > max_seconds:
        raise CosimError(
            f"{path}: found {seconds:.2f} s of audio, expected at most {max_seconds} s"
        )
    if found_rate != rate:
        warnings.append(f"{path}: {found_rate} Hz resampled to {rate} Hz")
        mono = _resample(mono, found_rate, rate)
    return mono, tuple(warnings)


def _read(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return float32[frames, channels] and the rate in Hz."""
    import soundfile  # noqa: PLC0415, slow to import

    if not path.is_file():
        raise CosimError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if path.stat().st_size == 0:
        raise CosimError(f"{path}: empty file, expected {_expected()}")
    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in FORMATS:
                raise CosimError(f"{path}: found {file.format}, expected {_expected()}")
            announced = max(file.frames, 0)
            if _is_cut(path, file.format):
                raise CosimError(f"{path}: truncated: the file ends before its audio does")
            samples = file.read(dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).rstrip(".")
        if "not recognised" in reason:
            raise CosimError(f"{path}: not audio, expected {_expected()}") from None
        raise CosimError(f"{path}: truncated or damaged: {reason}") from None
    except OSError as error:
        raise CosimError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(samples) < announced:
        raise CosimError(f"{path}: truncated: {len(samples)} of {announced} samples are there")
    if not len(samples):
        raise CosimError(f"{path}: zero-length: the file holds no samples")
    return samples, rate


def _expected() -> str:
    return "a WAV, FLAC or OGG file"


def _is_cut(path: Path, form: str) -> bool:
    """Whether the container says that more bytes belong to it (libsndfile reads on silently)."""
    content = path.read_bytes() if form in ("WAV", "WAVEX", "OGG") else b""
    if form == "OGG":  # page header: flags in byte 5, number of segments in byte 26, their sizes
        page = content[content.rfind(b"OggS") :]
        body = 27 + page[26] if len(page) > 26 else len(page) + 1
        is_whole = body + sum(page[27:body]) <= len(page)
        return not is_whole or not page[5] & _OGG_LAST_PAGE
    order: Literal["big", "little"] = "big" if content[:4] == b"RIFX" else "little"
    at = 12
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], order)
        if content[at : at + 4] == b"data":
            return size != _STREAMED_RIFF and at + 8 + size > len(content)
        at += 8 + size + size % 2
    return False


def _segment(
    mono: NDArray[np.float32], path: Path, rate: int, start_s: float, end_s: float | None
) -> NDArray[np.float32]:
    total_s = mono.size / rate
    slack_s = 0.01  # tables of segments are rounded to hundredths
    stop_s = total_s if end_s is None else end_s
    if not 0 <= start_s < stop_s <= total_s + slack_s:
        raise CosimError(
            f"{path}: found a segment from {start_s} s to {stop_s} s, expected it inside the "
            f"{total_s:.2f} s of the file"
        )
    cut = mono[round(start_s * rate) : round(stop_s * rate)]
    if not cut.size:
        raise CosimError(f"{path}: zero-length: the segment at {start_s} s holds no samples")
    return cut


def _resample(mono: NDArray[np.float32], found_rate: int, rate: int) -> NDArray[np.float32]:
    import soxr  # noqa: PLC0415, slow to import

    resampled = soxr.resample(mono, found_rate, rate, quality="HQ")
    expected = math.ceil(mono.size * rate / found_rate)
    return np.asarray(resampled[:expected], dtype=np.float32)
