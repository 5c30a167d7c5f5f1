"""Claims about the torch reference engine."""

import numpy as np
import pytest
import torch

from cosim.models.torch_engine import TorchEngine


def test_engine_steps_as_the_step_graph_does(network):
    generator = np.random.default_rng(5)
    features = generator.standard_normal((4, 40)).astype(np.float32)
    engine = TorchEngine(network.graphs(), threads=1)
    encoder, step = (spec.module for spec in network.graphs())
    cross = encoder(torch.from_numpy(features)[None])
    for _ in range(2):  # encode forgets the tokens of the last utterance
        engine.encode(features)
        caches = [torch.zeros(1, 2, 0, 8)] * 4
        for past, token in enumerate((3, 1, 30)):
            logits, *caches = step(torch.tensor([[token]]), *caches, *cross)
            found = engine.step(token, past)
            assert found.dtype == np.float32
            assert found.shape == (32,)
            np.testing.assert_array_equal(found, logits[0].numpy())


def test_engine_refuses_a_step_out_of_order(network):
    engine = TorchEngine(network.graphs(), threads=1)
    with pytest.raises(ValueError, match="expected 0 after encode"):
        engine.step(1, 0)
    engine.encode(np.zeros((4, 40), np.float32))
    engine.step(1, 0)
    with pytest.raises(ValueError, match="found past 5, expected 1"):
        engine.step(1, 5)
