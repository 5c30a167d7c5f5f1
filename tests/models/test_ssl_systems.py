"""Claims about the self-supervised systems of paper 000: sizes, values, and one graph for all."""

from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from ir_interpreter import run

from cosim import config
from cosim.errors import CosimError
from cosim.execute import ProgramEngine
from cosim.execute import Weights as Constants
from cosim.lower import lower
from cosim.models import AttentionRules, ModelConfig, RandomWeights, Weights, load
from cosim.models.own_folder import save_own, weights_hash
from cosim.models.torch_engine import torch_engine
from kernels.encodings import encode_dense

UPSTREAM = {"width": 16, "heads": 2, "layers": 2, "hidden": 24, "position_taps": 8}
UPSTREAM |= {"position_groups": 4, "channels": [8, 8, 8], "taps": [10, 3, 2], "strides": [5, 2, 2]}
SIZES = {
    "vocabulary": 11,
    "projected": 12,
    "encoder": {"width": 16, "heads": 2, "layers": 1, "hidden": 20, "taps": 5, "is_macaron": True},
    "decoder": {"layers": 1, "heads": 2, "hidden": 20, "positions": 9},
}
# Paper 000, table I prints 432, 433 and 431 M, and sizes in MB that tell the heads apart.
PARAMETERS = {
    "wav2vec2_conformer": 433_609_849,
    "hubert_conformer": 432_841_977,
    "wavlm_conformer": 431_682_105,
}


def system(family="wavlm", **network):
    upstream = {"family": family, "network": {**UPSTREAM, **network}}
    weights = Weights(random=RandomWeights(seed=6))
    return ModelConfig("small", "ssl_conformer", weights, {**SIZES, "upstream": upstream})


@lru_cache
def loaded():
    return load(system())


def values():
    return {key: tensor.numpy() for key, tensor in loaded().module.state_dict().items()}


@lru_cache
def program():
    encodings = {
        key: encode_dense(value) for key, value in values().items() if value.dtype == np.float32
    }
    return lower("small", loaded().module.graphs(), encodings=encodings)


def samples(count):
    return np.random.default_rng(count).standard_normal((1, count), np.float32)


@pytest.mark.parametrize("name", PARAMETERS)
def test_systems_of_paper_000_have_their_parameters(name):
    stated = config.load(config.configs_root() / "models" / f"{name}.yaml", ModelConfig)
    shapes = load(replace(stated, weights=Weights(random=RandomWeights(distribution="none"))))
    assert shapes.parameters == PARAMETERS[name]
    behind = [
        parameter.numel()
        for part in ("preencoder", "encoder", "decoder", "ctc")
        for parameter in shapes.module.get_submodule(part).parameters()
    ]
    assert sum(behind) == 116_228_960
    assert len(shapes.module.frontend.featurizer.weights) == 25


def test_encoder_sees_the_weighted_layers_without_their_mean():
    network = loaded().module
    given = torch.from_numpy(samples(900))
    with torch.no_grad():
        states = torch.stack(network.frontend.upstream.states(given))
        shares = torch.softmax(network.frontend.featurizer.weights, 0)
        mixed = (states * shares[:, None, None, None]).sum(0)
        wanted = network.preencoder.linear_out(mixed - mixed.mean(1, keepdim=True))
        found = network.preencoder(network.frontend(given))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_encoder_graph_means_what_torch_computes():
    given = samples(900)
    constants = {f"@{key}": value for key, value in values().items()}
    found, _ = run(program().graph("encoder"), constants, {"samples": given})
    wanted = torch_engine(loaded()).encode(given[0])
    assert found.keys() == wanted.keys() == {"ctc_logits", "cross_k_0", "cross_v_0"}
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-3, atol=1e-3)


def test_encoder_and_steps_are_executed_at_several_lengths():
    encodings = {
        f"@{key}": encode_dense(value)
        for key, value in values().items()
        if value.dtype == np.float32
    }
    engine, reference = ProgramEngine(Constants(program(), encodings)), torch_engine(loaded())
    for count in (700, 4000, 1777):
        given = samples(count)[0]
        found, wanted = engine.encode(given), reference.encode(given)
        np.testing.assert_allclose(found["ctc_logits"], wanted["ctc_logits"], rtol=1e-3, atol=1e-3)
        for past, token in enumerate((10, 3, 7)):
            np.testing.assert_allclose(
                engine.step(token, past), reference.step(token, past), rtol=1e-3, atol=1e-3
            )


def test_drawn_upstreams_hold_fp16_values_and_what_is_behind_does_not():
    network = loaded().module
    for parameter in network.frontend.upstream.parameters():
        assert torch.equal(parameter, parameter.half().float())
    weight = network.encoder.encoders[0].feed_forward.w_1.weight
    assert not torch.equal(weight, weight.half().float())


@pytest.mark.parametrize(
    ("family", "network"),
    [
        ("wav2vec2", {"codebooks": {"groups": 2, "entries": 3, "width": 8, "projected": 5}}),
        ("hubert", {"clusters": {"labels": 6, "projected": 5}}),
        ("wavlm", {"buckets": 12, "furthest": 9}),
    ],
)
def test_folder_of_our_own_gives_equal_weights(tmp_path, family, network):
    made = load(system(family, **network))
    made.module.frontend.featurizer.weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
    save_own(made, tmp_path / "folder")
    again = load(ModelConfig("again", "ssl_conformer", Weights(folder=str(tmp_path / "folder"))))
    assert weights_hash(again.module) == weights_hash(made.module)
    assert asdict(again.module.dimensions) == asdict(made.module.dimensions)
    assert again.module.frontend.featurizer.shares == pytest.approx(
        (0.175290, 0.039113, 0.785597), abs=1e-6
    )
    assert again.parameters == made.parameters
    assert again.decoding == AttentionRules(
        start=10, end=10, blank=0, beam=10, ctc_weight=0.3, max_tokens=8
    )


def test_unknown_upstreams_and_ctc_heads_are_refused():
    with pytest.raises(CosimError, match=r'did you mean "wav2vec2"'):
        load(system("wav2vec"))
    with pytest.raises(CosimError, match="found a CTC head, expected none"):
        load(system("hubert", vocabulary=5))
    with pytest.raises(CosimError, match=r"upstream\.network\.widht: unknown key"):
        load(system("hubert", widht=5))
