"""Claims about capturing ESPnet's networks: a program means what torch computes, at any length."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from espnet_reference import DECODER, VOCABULARY, Reference, features, small
from ir_interpreter import run
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosim.config import load as read
from cosim.execute import ProgramEngine, Weights
from cosim.lower import lower
from cosim.models import FrontEnd, ModelConfig, load
from cosim.schedule import schedule
from hwmodels.workload import Gemm
from kernels.encodings import encode_dense

SUBSAMPLINGS = {
    "transformer": "conv2d6",
    "conformer, macaron": "conv2d",
    "conformer, legacy": "conv2d",
    "branchformer": "conv2d2",
    "e_branchformer": "conv2d",
}
SECONDS = (2.0, 10.0, 17.3)


def network(name):
    return small(name, subsampling=SUBSAMPLINGS[name])


def values(name):
    return {key: tensor.numpy() for key, tensor in network(name).module.state_dict().items()}


@lru_cache
def program(name, *, has_step=False):
    graphs = network(name).module.graphs()
    encodings = {key: encode_dense(value) for key, value in values(name).items()}
    return lower(name, graphs if has_step else graphs[:1], encodings=encodings)


def encoded(name, given):
    """Return every output of the encoder graph by name, computed by torch."""
    spec = network(name).module.graphs()[0]
    with torch.no_grad():
        return dict(zip(spec.outputs, spec.module(given), strict=True))


def frames(seconds):
    return FrontEnd("espnet_log_mel", hop=160).length(round(seconds * 16000))


def engine(name, *, has_step=False):
    encodings = {f"@{key}": encode_dense(value) for key, value in values(name).items()}
    return ProgramEngine(Weights(program(name, has_step=has_step), encodings))


@pytest.mark.parametrize("name", SUBSAMPLINGS)
def test_encoder_graph_means_what_torch_computes(name):
    constants = {f"@{key}": value for key, value in values(name).items()}
    for length in (network(name).module.encoder.least(2), 50):
        given = features(length)
        found, _ = run(program(name).graph("encoder"), constants, {"features": given.numpy()})
        wanted = encoded(name, given)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SUBSAMPLINGS)
def test_one_capture_is_executed_at_every_length(name):
    runner = engine(name)
    for seconds in SECONDS:
        given = features(frames(seconds))
        found = runner.encode(given[0].numpy())
        for key, value in encoded(name, given).items():
            np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-3)


def test_steps_give_the_logits_of_the_whole_text():
    name = "transformer"
    tokens = [VOCABULARY - 1, 4, 4, 0, 9, 2, 7]
    runner = engine(name, has_step=True)
    reference = Reference(network(name))
    for length in (50, 81):
        given = features(length)
        runner.encode(given[0].numpy())
        wanted = reference.logits(tokens, reference.encode(given))
        for past, token in enumerate(tokens):
            found = runner.step(token, past)
            np.testing.assert_allclose(found, wanted[past], rtol=1e-3, atol=1e-3)


def test_step_graph_grows_its_caches_and_means_what_the_decoder_computes():
    name = "transformer"
    reference = Reference(network(name))
    given = features(50)
    cross = {k: v.numpy() for k, v in encoded(name, given).items() if k.startswith("cross")}
    graph = program(name, has_step=True).graph("step")
    constants = {f"@{key}": value for key, value in values(name).items()}
    states = {state: np.zeros((1, 2, 0, 8), np.float32) for state, _ in graph.states}
    tokens = [VOCABULARY - 1, 5, 1]
    wanted = reference.logits(tokens, reference.encode(given))
    for past, token in enumerate(tokens):
        inputs = {"token": np.array([[token]], np.int64), **cross}
        found, states = run(graph, constants, inputs, states)
        np.testing.assert_allclose(found["logits"][0], wanted[past], rtol=1e-4, atol=1e-4)
    assert {state.shape for state in states.values()} == {(1, 2, 3, 8)}
    assert len(states) == 2 * DECODER["layers"]


@pytest.mark.parametrize("name", SUBSAMPLINGS)
def test_macs_of_the_program_are_those_that_torch_counts(name):
    given = features(101)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoded(name, given)
    workload = schedule(program(name), "encoder", bindings={"frames": given.shape[1]})
    macs = sum(item.macs for item in workload.items if isinstance(item, Gemm))
    assert 2 * macs == counter.get_total_flops()


def test_a_model_without_decoder_is_one_graph_that_ends_in_logits():
    loaded = small("branchformer", has_decoder=False)
    state = loaded.module.state_dict()
    encodings = {key: encode_dense(value.numpy()) for key, value in state.items()}
    captured = lower("ctc", loaded.module.graphs(), encodings=encodings)
    assert captured.graph_names == ("encoder",)
    graph = captured.graph("encoder")
    assert [public for public, _ in graph.outputs] == ["logits"]
    assert graph.symbols == ("frames",)
    assert graph.types[graph.outputs[0][1]].bind({"frames": 1001}) == (1, 249, VOCABULARY)


PUBLISHED = ("e_branchformer_000",)  # `cosim bench --models` takes them all
CONFIGS = Path(__file__).parents[2] / "configs" / "models"


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_execute_ten_seconds_as_torch_does(name):
    loaded = load(read(CONFIGS / f"{name}.yaml", ModelConfig))
    state = {key: encode_dense(value.numpy()) for key, value in loaded.module.state_dict().items()}
    captured = lower(name, loaded.module.graphs(), encodings=state)
    runner = ProgramEngine(Weights(captured, {f"@{key}": value for key, value in state.items()}))
    given = features(loaded.front.length(160_000), 80)
    found = runner.encode(given[0].numpy())
    spec = loaded.module.graphs()[0]
    with torch.no_grad():
        wanted = dict(zip(spec.outputs, spec.module(given), strict=True))
    for key, value in wanted.items():
        scale = float(value.abs().max())
        np.testing.assert_allclose(found[key] / scale, value / scale, atol=1e-3)
