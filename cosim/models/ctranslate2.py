"""Reader of CTranslate2 model files, and their names for Whisper's tensors.

File: u32 format version, string spec, u32 revision, u32 count, then per variable: string name,
u8 rank, u32 sizes, u8 dtype, u32 bytes, data; then u32 count of aliases, each two strings. A string
is a u16 length and so many bytes with a trailing NUL. All numbers are little-endian
(OpenNMT/CTranslate2, src/models/model.cc and python/ctranslate2/specs/model_spec.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosim.errors import CosimError

Array = NDArray[np.generic]
FORMAT_VERSION = 6
_DTYPES: tuple[str, ...] = ("<f4", "i1", "<i2", "<i4", "<f2")
_GELU = 3  # CTranslate2's ActivationType: ReLU, GELUTanh, Swish, GELU


@dataclass(frozen=True)
class CTranslate2File:
    """The variables of a file by name, without aliases; `aliases` name variables a second time."""

    spec: str
    revision: int
    variables: Mapping[str, Array]
    aliases: Mapping[str, str]


class _Cursor:
    """A position in the bytes of a file; reading past the end is a CosimError."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data = data
        self.path = path
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        if self.at + size > len(self.data):
            raise CosimError(
                f"{self.path}: {what} at byte {self.at}: found {len(self.data) - self.at} bytes, "
                f"expected {size}; the file is truncated or not a CTranslate2 model"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def string(self, what: str) -> str:
        text = self.take(self.number(2, f"length of {what}"), what)
        if not text.endswith(b"\0") or not text[:-1].isascii():
            raise CosimError(
                f"{self.path}: {what} before byte {self.at}: found no NUL-terminated ASCII text; "
                "not a CTranslate2 model"
            )
        return text[:-1].decode("ascii")

    def variable(self) -> tuple[str, Array]:
        name = self.string("variable name")
        shape = tuple(
            self.number(4, f"shape of {name}") for _ in range(self.number(1, f"rank of {name}"))
        )
        code = self.number(1, f"dtype of {name}")
        if code >= len(_DTYPES):
            raise CosimError(
                f"{self.path}: {name}: found dtype {code}, expected 0 (f32), 1 (i8), 2 (i16), "
                "3 (i32) or 4 (f16)"
            )
        dtype = np.dtype(_DTYPES[code])
        size = self.number(4, f"size of {name}")
        if size != prod(shape) * dtype.itemsize:
            raise CosimError(
                f"{self.path}: {name}: found {size} bytes, expected {prod(shape) * dtype.itemsize} "
                f"for shape {list(shape)} of {dtype.name}"
            )
        return name, np.frombuffer(self.take(size, name), dtype).reshape(shape)


def read(path: Path) -> CTranslate2File:
    """Return all variables of a CTranslate2 `model.bin`.

    Raises CosimError if the file is missing, truncated, of another format version or has bytes
    left over.

    Example:
        read(folder / "model.bin").variables["encoder/conv1/weight"].shape

    """
    try:
        cursor = _Cursor(path.read_bytes(), path)
    except OSError as error:
        raise CosimError(f"{path}: cannot be read: {error.strerror}") from None
    version = cursor.number(4, "format version")
    if version != FORMAT_VERSION:
        raise CosimError(
            f"{path}: found format version {version}, expected {FORMAT_VERSION}; "
            "not a CTranslate2 model, or one of another generation"
        )
    spec = cursor.string("name of the spec")
    revision = cursor.number(4, "revision of the spec")
    variables = dict(cursor.variable() for _ in range(cursor.number(4, "number of variables")))
    aliases = {
        cursor.string("alias"): cursor.string("aliased name")
        for _ in range(cursor.number(4, "number of aliases"))
    }
    if cursor.at != len(cursor.data):
        raise CosimError(f"{path}: found {len(cursor.data) - cursor.at} bytes after the last alias")
    unknown = sorted(set(aliases.values()) - set(variables))
    if unknown:
        raise CosimError(f"{path}: aliases of variables that do not exist: {', '.join(unknown)}")
    return CTranslate2File(spec, revision, variables, aliases)


# Scalars that must have these values for the network of cosim.models.whisper to be the right one.
_WHISPER_SETTINGS: Mapping[str, int] = {
    "decoder/activation": _GELU,
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
# Which attention heads follow time; only word alignment needs them.
_WHISPER_UNUSED = frozenset({"decoder/alignment_heads", "decoder/alignment_layer"})


@dataclass(frozen=True)
class WhisperTensors:
    """Tensors under Hugging Face names (no leading `model.`) as stored, and the head count."""

    tensors: Mapping[str, Array]
    heads: int


class _Renaming:
    """Variables moving from a file's names to ours; notes what is missing, wrong and left over."""

    def __init__(self, variables: Mapping[str, Array], path: Path) -> None:
        self.left = dict(variables)
        self.path = path
        self.tensors: dict[str, Array] = {}
        self.problems: list[str] = []

    def complain(self, problem: str) -> None:
        self.problems.append(f"{self.path}: {problem}")

    def take(self, name: str) -> Array | None:
        if name not in self.left:
            self.complain(f"{name}: missing")
        return self.left.pop(name, None)

    def copy(self, source: str, target: str) -> None:
        if (found := self.take(source)) is not None:
            self.tensors[target] = found

    def norm(self, source: str, target: str) -> None:
        self.copy(f"{source}/gamma", f"{target}.weight")
        self.copy(f"{source}/beta", f"{target}.bias")

    def linear(self, source: str, *targets: str) -> None:
        """Move weight and bias, rows split evenly among `targets`."""
        for kind in ("weight", "bias"):
            fused = self.take(f"{source}/{kind}")
            if fused is None:
                continue
            if fused.ndim == 0 or fused.shape[0] % len(targets):
                self.complain(
                    f"{source}/{kind}: found shape {list(fused.shape)}, expected rows for "
                    f"{len(targets)} projections"
                )
                continue
            for target, part in zip(targets, np.split(fused, len(targets)), strict=True):
                if kind == "weight" or not target.endswith("k_proj"):
                    self.tensors[f"{target}.{kind}"] = part
                elif np.any(part):
                    self.complain(f"{source}/bias: found a bias of k, expected zeros")

    def attention(self, source: str, target: str, fused: Sequence[str]) -> None:
        """Move an attention block; `fused` says which projections each linear_i holds."""
        for index, letters in enumerate(fused):
            self.linear(f"{source}/linear_{index}", *(f"{target}.{p}_proj" for p in letters))
        self.linear(f"{source}/linear_{len(fused)}", f"{target}.out_proj")
        self.norm(f"{source}/layer_norm", f"{target}_layer_norm")

    def settings(self) -> int:
        """Check the scalars and return the number of heads, 0 if the file does not state it."""
        for name, wanted in _WHISPER_SETTINGS.items():
            found = self.left.pop(name, None)
            if found is not None and found.tolist() != wanted:
                self.complain(f"{name}: found {found.tolist()}, expected {wanted}")
        for name in _WHISPER_UNUSED:
            self.left.pop(name, None)
        heads = [self.take(f"{side}/num_heads") for side in ("encoder", "decoder")]
        counts = {int(found) for found in heads if found is not None and found.ndim == 0}
        if len(counts) != 1:
            self.complain(f"num_heads: found {sorted(counts)}, expected one number for both sides")
        return counts.pop() if counts else 0


def whisper_tensors(file: CTranslate2File, *, path: Path) -> WhisperTensors:
    """Return the tensors of a WhisperSpec file under Hugging Face names.

    Fused projections are split: self-attention `linear_0` is [q; k; v], cross-attention `linear_1`
    is [k; v]. Whisper's keys have no bias, so a bias of k other than zero is refused. Raises
    CosimError listing every variable that is missing, left over or not what Whisper needs.
    """
    if file.spec != "WhisperSpec":
        raise CosimError(f'{path}: found spec "{file.spec}", expected "WhisperSpec"')
    renaming = _Renaming(file.variables, path)
    heads = renaming.settings()
    if file.aliases != {"decoder/projection/weight": "decoder/embeddings/weight"}:
        renaming.complain(
            f"aliases: found {dict(file.aliases)}, expected the projection to be the embedding"
        )
    for convolution in ("conv1", "conv2"):
        renaming.linear(f"encoder/{convolution}", f"encoder.{convolution}")
    renaming.copy("decoder/embeddings/weight", "decoder.embed_tokens.weight")
    for side in ("encoder", "decoder"):
        renaming.copy(f"{side}/position_encodings/encodings", f"{side}.embed_positions.weight")
        renaming.norm(f"{side}/layer_norm", f"{side}.layer_norm")
        blocks = {
            name.split("/")[1] for name in file.variables if name.startswith(f"{side}/layer_")
        }
        for index in range(len(blocks - {"layer_norm"})):
            source, target = f"{side}/layer_{index}", f"{side}.layers.{index}"
            renaming.attention(f"{source}/self_attention", f"{target}.self_attn", ("qkv",))
            if side == "decoder":
                renaming.attention(f"{source}/attention", f"{target}.encoder_attn", ("q", "kv"))
            renaming.linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            renaming.linear(f"{source}/ffn/linear_1", f"{target}.fc2")
            renaming.norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    for name in sorted(renaming.left):
        renaming.complain(f"{name}: left over, Whisper has no place for it")
    if renaming.problems:
        raise CosimError(renaming.problems)
    return WhisperTensors(renaming.tensors, heads)
