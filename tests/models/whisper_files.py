"""Writers of the files that Whisper checkpoints consist of, independent of our readers."""

import json
import struct
from pathlib import Path

import numpy as np

CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
ALIASES = {"decoder/projection/weight": "decoder/embeddings/weight"}


def text(value):
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def write(path, variables, *, spec="WhisperSpec", version=6, aliases=ALIASES, tail=b""):
    parts = [struct.pack("<I", version), text(spec), struct.pack("<II", 3, len(variables))]
    for name, array in variables.items():
        parts += [text(name), struct.pack("<B", array.ndim)]
        parts += [struct.pack("<I", size) for size in array.shape]
        parts += [struct.pack("<BI", CODES[array.dtype.name], array.nbytes), array.tobytes()]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [text(name) + text(target) for name, target in aliases.items()]
    path.write_bytes(b"".join(parts) + tail)
    return path


def whisper_variables(network):
    """The variables CTranslate2 would store for a network, projections fused as it fuses them."""
    w = {name: tensor.numpy().astype(np.float16) for name, tensor in network.named_parameters()}
    out = {"decoder/embeddings/weight": w["decoder.embed_tokens.weight"]}

    def norm(target, source):
        out[f"{target}/gamma"], out[f"{target}/beta"] = w[f"{source}.weight"], w[f"{source}.bias"]

    def linear(target, *sources):
        zeros = np.zeros(network.dimensions.width, np.float16)
        out[f"{target}/weight"] = np.concatenate([w[f"{s}.weight"] for s in sources])
        out[f"{target}/bias"] = np.concatenate([w.get(f"{s}.bias", zeros) for s in sources])

    for side, layers in (("encoder", 1), ("decoder", 2)):
        out[f"{side}/num_heads"] = np.array(2, np.int16)
        out[f"{side}/position_encodings/encodings"] = w[f"{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for i in range(layers):
            a, b = f"{side}/layer_{i}", f"{side}.layers.{i}"
            linear(f"{a}/self_attention/linear_0", *(f"{b}.self_attn.{p}_proj" for p in "qkv"))
            linear(f"{a}/self_attention/linear_1", f"{b}.self_attn.out_proj")
            norm(f"{a}/self_attention/layer_norm", f"{b}.self_attn_layer_norm")
            if side == "decoder":
                linear(f"{a}/attention/linear_0", f"{b}.encoder_attn.q_proj")
                linear(f"{a}/attention/linear_1", *(f"{b}.encoder_attn.{p}_proj" for p in "kv"))
                linear(f"{a}/attention/linear_2", f"{b}.encoder_attn.out_proj")
                norm(f"{a}/attention/layer_norm", f"{b}.encoder_attn_layer_norm")
            linear(f"{a}/ffn/linear_0", f"{b}.fc1")
            linear(f"{a}/ffn/linear_1", f"{b}.fc2")
            norm(f"{a}/ffn/layer_norm", f"{b}.final_layer_norm")
    for name in ("conv1", "conv2"):
        linear(f"encoder/{name}", f"encoder.{name}")
    out["decoder/activation"] = np.array(3, np.int8)
    out["decoder/alignment_layer"] = np.array(-1, np.int16)
    return out


def write_tokenizer(path: Path) -> None:
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>"]
    added = [
        {"id": 20 + index, "content": text}
        for index, text in enumerate([*special, "<|notimestamps|>"])
    ]
    path.write_text(json.dumps({"model": {"vocab": {"a": 0, "Ġ": 7}}, "added_tokens": added}))
