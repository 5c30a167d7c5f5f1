"""Lists of utterances from the three input formats; every broken row is told at once."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from cosim.errors import CosimError, suggestion

FORMATS = (
    "a JSON-lines manifest (audio, text, duration), a LibriSpeech tree "
    "(split/speaker/chapter/*.flac with *.trans.txt), or a Kaldi data directory (wav.scp, text)"
)


@dataclass(frozen=True)
class SpeechConfig:
    """The `speech:` key of an experiment: where utterances come from, which split, how many.

    `corpus` names a corpus that cosim fetches itself; `manifest`, `librispeech` and `kaldi` are
    paths. Exactly one of the four. `limit` keeps the first so many utterances.
    """

    corpus: str | None = None
    manifest: str | None = None
    librispeech: str | None = None
    kaldi: str | None = None
    split: str | None = None
    limit: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        keys = ("corpus", "manifest", "librispeech", "kaldi")
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise CosimError(f"found {found}, expected exactly one of {', '.join(keys)}")
        if self.split is not None and self.kaldi is not None:
            raise CosimError("split: a Kaldi data directory holds one split; leave split out")


@dataclass(frozen=True)
class Utterance:
    """One recording and what was said.

    `start_s` and `end_s` cut it out of a longer file; `duration_s` is what the manifest says, not
    measured. `speaker` is empty where unknown.
    """

    id: str
    audio: Path
    text: str
    duration_s: float | None = None
    speaker: str = ""
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Listing:
    """Utterances in the order of their source; `skipped` says which rows were left out and why."""

    utterances: tuple[Utterance, ...]
    skipped: tuple[str, ...] = ()


Row = tuple[str, Utterance | str]  # where it stands; an utterance, or what is wrong there


def read_manifest(
    path: Path,
    *,
    split: str | None = None,
    keep_going: bool = False,
    is_transcribed: bool = True,
) -> Listing:
    """Return the utterances of a JSON-lines manifest (the format of NVIDIA NeMo).

    A row holds `audio` or `audio_filepath` (relative to the manifest), `text`, and may hold
    `duration` (s), `offset` (s, with `duration`: a segment of the file), `speaker`, `id`, `split`;
    other keys are ignored. Without `is_transcribed` a row may lack `text`. Raises CosimError naming
    every broken row unless `keep_going`.
    """
    rows = ((where, *_manifest_row(path, line, is_transcribed)) for where, line in lines(path))
    return _collect(path, _of_split(path, rows, split), keep_going=keep_going)


def read_librispeech(path: Path, *, split: str | None = None, keep_going: bool = False) -> Listing:
    """Return the utterances of a LibriSpeech tree: split/speaker/chapter/*.flac and *.trans.txt.

    `path` is the folder of the splits, or of one split when `split` is None. Raises CosimError
    naming every broken line unless `keep_going`.
    """
    root = _folder(path)
    if split is not None:
        splits = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        if split not in splits:
            raise CosimError(f"{root}: split: found {split!r}{suggestion(split, splits)}")
        root /= split
    transcripts = sorted(root.rglob("*.trans.txt"))
    return _collect(root, _librispeech_rows(transcripts), keep_going=keep_going)


def read_kaldi(path: Path, *, keep_going: bool = False) -> Listing:
    """Return the utterances of a Kaldi data directory: wav.scp, text, maybe utt2spk and segments.

    Audio paths are relative to the directory, else to the working directory. Piped commands are
    refused. Raises CosimError naming every broken line unless `keep_going`.
    """
    return _collect(path, _kaldi_rows(_folder(path)), keep_going=keep_going)


def _collect(source: Path, rows: Iterable[Row], *, keep_going: bool) -> Listing:
    utterances: dict[str, Utterance] = {}
    problems: list[str] = []
    for where, row in rows:
        if isinstance(row, str):
            problems.append(f"{where}: {row}")
        elif row.id in utterances:
            problems.append(f"{where}: id {row.id} occurs a second time")
        elif not row.audio.is_file():
            problems.append(f"{where}: no such audio file: {row.audio}{_near(row.audio)}")
        else:
            utterances[row.id] = row
    if problems and not keep_going:
        raise CosimError(problems)
    if not utterances:
        raise CosimError([*problems, f"{source}: found no usable utterance, expected {FORMATS}"])
    return Listing(tuple(utterances.values()), tuple(problems))


def _near(path: Path) -> str:
    """Return the did-you-mean among the files beside `path`, if it has some."""
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    return _meant(path.name, (entry.name for entry in there))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise CosimError(f"{path}: no such folder{_near(path)}")
    return path


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ("FILE: line N", text) for every line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CosimError(f"{path}: no such file{_near(path)}") from None
    except UnicodeDecodeError as error:
        raise CosimError(f"{path}: not UTF-8 text, first at byte {error.start}") from None
    except OSError as error:
        raise CosimError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}: line {number}", line.strip()


def utterance_id(audio: str, offset: object) -> str:
    """Return what an utterance without `id` is called: by its audio, and its place in there."""
    return str(Path(audio).with_suffix("")) + (f"@{offset}" if offset else "")


def _manifest_row(path: Path, line: str, is_transcribed: bool) -> tuple[str, Utterance | str]:
    """Return the split that a row names (or an empty text) and the utterance or its mistakes."""
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        return "", f"not valid JSON: {error.msg} at column {error.colno}"
    if not isinstance(data, dict):
        return "", f"found {line[:40]}, expected a JSON object"
    audio: Any = data.get("audio", data.get("audio_filepath"))
    text: Any = data.get("text", None if is_transcribed else "")
    wrong = []
    if not isinstance(audio, str) or not audio:
        wrong.append("audio: missing, expected a path in `audio` or `audio_filepath`")
    if not isinstance(text, str) or (is_transcribed and not text.strip()):
        wrong.append(f"text: found {json.dumps(text)}, expected what is said")
    wrong += [
        f"{key}: found {json.dumps(data[key])}, expected seconds"
        for key in ("duration", "offset")
        if data.get(key) is not None and not _is_seconds(data[key])
    ]
    if data.get("offset") and data.get("duration") is None:
        wrong.append("duration: missing, expected it beside `offset`")
    split = str(data.get("split", ""))
    if wrong:
        return split, "; ".join(wrong)
    start_s, duration_s = data.get("offset"), data.get("duration")
    utterance = Utterance(
        id=str(data.get("id", utterance_id(audio, start_s))),
        audio=path.parent / Path(audio).expanduser(),
        text=text,
        duration_s=duration_s,
        speaker=str(data.get("speaker", "")),
        start_s=start_s or 0.0,
        end_s=None if start_s is None else start_s + duration_s,
    )
    return split, utterance


def _is_seconds(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _of_split(
    path: Path, rows: Iterable[tuple[str, str, Utterance | str]], split: str | None
) -> Iterator[Row]:
    """Yield the rows of `split` (all when None) and the broken rows that name no split."""
    seen: set[str] = set()
    for where, named, row in rows:
        seen.add(named)
        if split is None or named == split or (isinstance(row, str) and not named):
            yield where, row
    if split is not None and split not in seen:
        known = sorted(seen - {""})
        near = suggestion(split, known) if known else "; no row has the key `split`"
        yield str(path), f"no row of split {split!r}{near}"


def _librispeech_rows(transcripts: Iterable[Path]) -> Iterator[Row]:
    for transcript in transcripts:
        for where, line in lines(transcript):
            name, _, text = line.partition(" ")
            if text.strip():
                audio = transcript.parent / f"{name}.flac"
                yield where, Utterance(name, audio, text.strip(), speaker=name.split("-")[0])
            else:
                yield where, f"{name}: text: missing, expected `ID WORDS`"


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """Return {first word: (where, rest of the line)} of a Kaldi table."""
    table = {}
    for where, line in lines(path):
        key, *rest = line.split(maxsplit=1)
        table[key] = (where, rest[0] if rest else "")
    return table


def _kaldi_rows(folder: Path) -> Iterator[Row]:
    recordings = _table(folder / "wav.scp")
    texts = _table(folder / "text")
    speakers = _table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
    has_segments = (folder / "segments").exists()
    utterances = _table(folder / "segments") if has_segments else recordings
    for name, (where, _) in texts.items():
        if name not in utterances:
            table = "segments" if has_segments else "wav.scp"
            yield where, f"{name} is not in {table}{_meant(name, utterances)}"
    for name, (where, rest) in utterances.items():
        fields = rest.split() if has_segments else [name, "0", "-1"]
        text = texts.get(name, ("", ""))[1]
        if not text:
            yield where, f"{name}: text: missing, expected `{name} WORDS` in {folder / 'text'}"
        elif len(fields) != 3 or not all(map(_is_number, fields[1:])):
            yield where, f"found {rest!r}, expected `ID RECORDING START END` in seconds"
        elif fields[0] not in recordings:
            near = _meant(fields[0], recordings)
            yield where, f"recording {fields[0]!r} is not in wav.scp{near}"
        elif recordings[fields[0]][1].endswith("|"):
            said = "found a piped command, expected a path to an audio file"
            yield recordings[fields[0]][0], said
        else:
            audio = Path(recordings[fields[0]][1]).expanduser()
            start_s, end_s = map(float, fields[1:])
            yield (
                where,
                Utterance(
                    id=name,
                    audio=folder / audio if (folder / audio).is_file() else audio,
                    text=text,
                    speaker=speakers.get(name, ("", ""))[1],
                    start_s=start_s,
                    end_s=end_s if end_s >= 0 else None,
                ),
            )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _meant(name: str, known: Iterable[str]) -> str:
    near = suggestion(name, list(known))
    return near if "did you mean" in near else ""
