"""Writers and readers of small ESPnet experiment folders for tests, independent of our own."""

import os

import numpy as np
import pytest
import torch
import yaml
from espnet_reference import BANDS, WIDTH, small

from cosim.errors import CosimError
from cosim.models import ModelConfig, Weights, load

TOKENS = ["<blank>", "<unk>", "▁A", "B", "'", "▁THE", "ING", "▁", "S", "NO", "<sos/eos>"]
# As espnet2/bin/asr_train.py writes them, with settings of training among them.
ENCODERS = {
    "transformer": {"linear_units": 24, "pos_enc_layer_type": "abs_pos"},
    "conformer": {
        "linear_units": 24,
        "cnn_module_kernel": 7,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
    },
    "branchformer": {"cgmlp_linear_units": 24, "cgmlp_conv_kernel": 5, "merge_method": "concat"},
    "e_branchformer": {
        "cgmlp_linear_units": 24,
        "cgmlp_conv_kernel": 5,
        "linear_units": 24,
        "merge_conv_kernel": 3,
        "macaron_ffn": True,
        "use_ffn": True,
    },
}
OURS = {name: name for name in ENCODERS} | {"conformer": "conformer, macaron"}


def statistics():
    rng = np.random.default_rng(2)
    frames = rng.normal(-5, 3, (50, BANDS))
    return frames, {"count": 50, "sum": frames.sum(0), "sum_square": (frames**2).sum(0)}


def write(folder, family):
    """Write a folder as ESPnet does: the statistics stand where the recipe keeps them."""
    experiment = folder / "exp" / "asr_train"
    experiment.mkdir(parents=True)
    config = {
        "config": "conf/train.yaml",
        "accum_grad": 2,
        "input_size": None,
        "frontend": "default",
        "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": BANDS, "fs": "16k"},
        "specaug": "specaug",
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "exp/asr_stats/train/feats_stats.npz"},
        "preencoder": None,
        "encoder": family,
        "encoder_conf": {
            "output_size": WIDTH,
            "attention_heads": 2,
            "num_blocks": 2,
            "dropout_rate": 0.1,
            "input_layer": "conv2d",
            **ENCODERS[family],
        },
        "postencoder": None,
        "decoder": "transformer",
        "decoder_conf": {
            "attention_heads": 2,
            "linear_units": 24,
            "num_blocks": 2,
            "src_attention_dropout_rate": 0.1,
        },
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
        "token_type": "bpe",
        "bpemodel": "data/bpe.model",
        "token_list": TOKENS,
    }
    (experiment / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    place = folder / "exp" / "asr_stats" / "train"
    place.mkdir(parents=True)
    np.savez(place / "feats_stats.npz", **statistics()[1])
    network = small(OURS[family]).module
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in [key for key in state if key.endswith("running_mean")]:
        state[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    state["frontend.logmel.melmat"] = torch.zeros(257, BANDS)
    state["decoder.embed.1.pe"] = torch.zeros(1, 5000, WIDTH)
    torch.save(state, experiment / "valid.acc.ave.pth")
    return experiment


def config(folder, family="conformer", **changes):
    return ModelConfig("tiny", family, Weights(folder=str(folder)), **changes)


def refused(folder, family="conformer", **changes):
    with pytest.raises(CosimError) as caught:
        load(config(folder, family, **changes))
    return caught.value.problems


def problems(folder, family="conformer", **changes):
    lines = refused(folder, family, **changes)
    return [line.replace(f"{folder}{os.sep}", "") for line in lines]


def edit(folder, **changes):
    """Change keys of config.yaml; a mapping changes keys inside a section."""
    path = folder / "config.yaml"
    data = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        data[name] = {**data[name], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(data, allow_unicode=True))


def rewrite(folder, change):
    path = folder / "valid.acc.ave.pth"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
