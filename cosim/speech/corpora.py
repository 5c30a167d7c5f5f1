"""Corpora that cosim fetches itself: today the English prompts of the Asterisk telephone system.

The recordings come from two Debian packages with pinned hashes, by apt and without root. They are
decoded once into the user's cache as 16 kHz FLAC with a manifest.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosim import config
from cosim.cache import cache_root
from cosim.errors import CosimError, suggestion
from cosim.speech.manifest import FORMATS

PROMPTS_VERSION = "1.6.1-1"
PROMPTS_SHA256 = {
    "asterisk-core-sounds-en": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "asterisk-core-sounds-en-g722": (
        "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806"
    ),
}
PROMPTS_ATTRIBUTION = (
    "Asterisk core sounds (English) 1.6.1, (c) 2003-2010 Allison Smith, who recorded them "
    "(theivrvoice.com), financial contributions by Digium, Inc.; CC-BY-SA-3.0; from the Debian "
    "packages asterisk-core-sounds-en and asterisk-core-sounds-en-g722 1.6.1-1, decoded to FLAC"
)
_TRANSCRIPTS = "./usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
_RECORDINGS = "./usr/share/asterisk/sounds/en_US_f_Allison/"
_RATE_HZ = 16000

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """A fetched corpus: `manifest` can be read by `read_manifest`; print `attribution`."""

    name: str
    folder: Path
    manifest: Path
    attribution: str


@dataclass(frozen=True)
class Splits:
    """Prompt names per split, in the order of the manifest."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def prompt_splits() -> Splits:
    """Return which prompts are for training, development and test."""
    return config.load(Path(__file__).with_name("prompts_splits.yaml"), Splits)


def fetch(name: str, *, progress: Progress, cache: Path | None = None) -> Corpus:
    """Return the corpus `name`, fetched on first use. Raises CosimError for an unknown name."""
    if name not in CORPORA:
        raise CosimError(f"corpus: found {name!r}{suggestion(name, list(CORPORA))}")
    return CORPORA[name](progress, cache)


def fetch_prompts(progress: Progress, cache: Path | None = None) -> Corpus:
    """Return the prompts corpus in `cache` (default: the user's); a second call does no work.

    Raises CosimError where apt is missing or does not have the packages, or their hash differs.
    """
    folder = (cache or cache_root()) / "prompts" / PROMPTS_VERSION
    corpus = Corpus("prompts", folder, folder / "manifest.jsonl", PROMPTS_ATTRIBUTION)
    if corpus.manifest.is_file():
        return corpus
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as text:
            work = Path(text)
            packages = _download(work, progress)
            build_prompts(packages, work / "corpus", progress=progress)
            _move(work / "corpus", folder)
    except OSError as error:
        raise CosimError(f"{folder}: cannot write the prompts corpus: {error}") from None
    return corpus


def build_prompts(packages: dict[str, Path], folder: Path, *, progress: Progress) -> None:
    """Write the corpus into the new `folder` from .deb files by package name.

    Raises CosimError where a hash differs from the pinned one.
    """
    import soundfile  # noqa: PLC0415, slow to import

    _verify(packages)
    text_package, audio_package = (packages[name] for name in PROMPTS_SHA256)
    texts = _transcripts(dict(_members(text_package))[_TRANSCRIPTS])
    recordings = dict(_members(audio_package))
    splits = asdict(prompt_splits())
    progress(f"decoding {sum(map(len, splits.values()))} prompts")
    (folder / "audio").mkdir(parents=True)
    rows = []
    for split, names in splits.items():
        for name in names:
            samples = _decode_g722(recordings[f"{_RECORDINGS}{name}.g722"])
            audio = f"audio/{name.replace('/', '_')}.flac"
            soundfile.write(folder / audio, samples, _RATE_HZ, subtype="PCM_16")
            row = {
                "id": name,
                "audio": audio,
                "text": texts[name],
                "duration": round(samples.size / _RATE_HZ, 3),
                "speaker": "allison-smith",
                "split": split,
            }
            rows.append(json.dumps(row, ensure_ascii=False))
    (folder / "LICENCE.txt").write_text(PROMPTS_ATTRIBUTION + "\n", encoding="utf-8")
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


CORPORA: dict[str, Callable[[Progress, Path | None], Corpus]] = {"prompts": fetch_prompts}


def _download(work: Path, progress: Progress) -> dict[str, Path]:
    """Return the .deb files, fetched by apt into `work` with lists and cache of its own."""
    if shutil.which("apt-get") is None:
        raise CosimError(
            "corpus prompts: apt-get is not on this machine, and the recordings come from the "
            f"Debian packages {' and '.join(PROMPTS_SHA256)}; use speech of your own instead: "
            f"{FORMATS}"
        )
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (work / name).mkdir(parents=True)
    private = [
        *("-o", f"Dir::State::lists={work / 'lists'}"),
        *("-o", f"Dir::Cache={work / 'cache'}"),
        *("-o", "Acquire::Languages=none"),
        *("-o", "Acquire::Retries=3"),
    ]
    if os.geteuid() == 0:  # apt's own user could not enter a folder of root
        private += ["-o", "APT::Sandbox::User=root"]
    progress("reading the package lists with apt")
    updated = _apt([*private, "update"], work)
    progress("downloading 10.6 MB with apt")
    wanted = [f"{name}={PROMPTS_VERSION}" for name in PROMPTS_SHA256]
    downloaded = _apt([*private, "download", *wanted], work / "packages")
    if downloaded.returncode:  # a source that could not be updated matters only now
        said = " ".join(f"{updated.stderr} {downloaded.stderr}".split())[-800:]
        raise CosimError(
            f"corpus prompts: apt-get cannot download {' '.join(wanted)}: {said}; try again, or "
            f"use speech of your own: {FORMATS}"
        )
    return {name: next((work / "packages").glob(f"{name}_*.deb")) for name in PROMPTS_SHA256}


def _apt(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603, arguments of our own
        ["apt-get", "-q", *arguments],  # noqa: S607, found on the user's path
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _verify(packages: dict[str, Path]) -> None:
    digests = {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in packages.items()
    }
    wrong = [
        f"{packages[name]}: found sha256 {digests[name]}, expected {pinned}"
        for name, pinned in PROMPTS_SHA256.items()
        if digests[name] != pinned
    ]
    if wrong:
        raise CosimError(wrong)


def _members(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files in a Debian package (deb(5): an ar archive of tars)."""
    content = package.read_bytes()
    at = len(b"!<arch>\n")
    while at < len(content):
        name = content[at : at + 16].decode("ascii").rstrip(" /")
        size = int(content[at + 48 : at + 58])
        at += 60
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content[at : at + size])) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isfile() else None
                    if file is not None:
                        yield member.name, file.read()
        at += size + size % 2


def _transcripts(content: bytes) -> dict[str, str]:
    """Return {prompt name: text} from lines `name: text`; `;` starts a comment line."""
    lines = gzip.decompress(content).decode("utf-8").splitlines()
    pairs = (line.partition(":") for line in lines if not line.startswith(";"))
    return {name.strip(): text.strip() for name, colon, text in pairs if colon}


def _decode_g722(content: bytes) -> NDArray[np.int16]:
    """Return int16[samples] at 16 kHz of a raw ITU-T G.722 stream at 64 kbit/s."""
    import av  # noqa: PLC0415, slow to import

    with av.open(io.BytesIO(content), mode="r", format="g722") as container:
        frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.int16, copy=False)


def _move(built: Path, folder: Path) -> None:
    """Rename `built` to `folder`, unless another run has finished the same corpus meanwhile."""
    try:
        built.rename(folder)
    except OSError:
        if not (folder / "manifest.jsonl").is_file():
            raise
