"""Small networks of transformers, the oracle of wav2vec2-type models, and their folders.

transformers looks for a distribution named `kernels`; the package of that name here is ours and has
no version, so transformers must find it unfit and leave it alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import is_kernels_available

from cosim.models import LoadedModel, ModelConfig, Weights, load

assert not is_kernels_available()

SMALL = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "conv_dim": [12, 16, 20],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 7,
    "pad_token_id": 2,
}
PUBLISHED_BASE = {"pad_token_id": 0}
PUBLISHED_LARGE = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "intermediate_size": 4096,
}
GROUP_NORM = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
VARIANTS = {
    "group norm, norms after": GROUP_NORM,
    "layer norm, norms before": LAYER_NORM,
    "group norm, norms before": {**GROUP_NORM, "do_stable_layer_norm": True},
    "layer norm, odd positions": {**LAYER_NORM, "num_conv_pos_embeddings": 7},
}
NAMES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}
TOKENIZER = {"pad_token": "<pad>", "word_delimiter_token": "|"}
VOCABULARY = ["<s>", "a", "<pad>", "|", "b", "c", "</s>"]


@dataclass(frozen=True)
class Oracle:
    """A network of transformers and the folder that it wrote."""

    network: torch.nn.Module
    folder: Path

    def load(self, **changes) -> LoadedModel:
        family = self.network.config.model_type
        return load(ModelConfig("small", family, Weights(folder=str(self.folder)), **changes))


def configuration(family, sizes):
    extra = {"num_buckets": 16, "max_bucket_distance": 24} if family == "wavlm" else {}
    return getattr(transformers, f"{NAMES[family]}Config")(**{**extra, **sizes})


def shaped(family, sizes, head="ForCTC"):
    """Return transformers' network of any size, on the meta device."""
    config = getattr(transformers, f"{NAMES[family]}Config")(**sizes)
    with torch.device("meta"):
        return getattr(transformers, f"{NAMES[family]}{head}")(config).eval()


def counted(family, sizes, head="ForCTC"):
    """Return the number of parameters of transformers' network."""
    return sum(parameter.numel() for parameter in shaped(family, sizes, head).parameters())


def counted_flops(family, sizes, length):
    """Return what torch's flop counter gives for transformers' network and so many samples."""
    network = shaped(family, sizes)
    network.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, length, device="meta"))
    return counter.get_total_flops()


def oracle(folder, family, *, head="ForCTC", **sizes) -> Oracle:
    """Return a network with weights from a seed, every one of them away from 0 and 1."""
    config = configuration(family, {**SMALL, **sizes})
    network = getattr(transformers, f"{NAMES[family]}{head}")(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)
    network.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", do_normalize=True, sampling_rate=16000)
    if head == "ForCTC":
        ids = {text: index for index, text in enumerate(VOCABULARY)}
        write_json(folder / "vocab.json", **ids)
        write_json(folder / "tokenizer_config.json", **TOKENIZER)
    return Oracle(network, folder)


def write_json(path, **data):
    path.write_text(json.dumps(data))


def edit_json(path, *remove, **changes):
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if key not in remove}))


def samples(length, seed=3):
    return torch.randn(1, length, generator=torch.Generator().manual_seed(seed))


def assert_close(found, wanted, tolerance=1e-4):
    assert found.shape == wanted.shape
    error = (found - wanted).abs().max() / wanted.abs().max()
    assert error <= tolerance, float(error)
