"""Claims about drawn weights: moments, seeds, shared parameters, what is left alone."""

import numpy as np
import pytest
import torch
from torch import nn

from cosim.errors import CosimError
from cosim.models import RandomWeights, Weights
from cosim.models.drawn import draw


def network() -> nn.Module:
    with torch.device("meta"):
        layers = [nn.Linear(64, 512) for _ in range(3)]
        module = nn.Module()
        module.layers = nn.ModuleList(layers)
        module.norm = nn.BatchNorm1d(8)
        module.table = nn.Embedding(400, 16)
        module.conv = nn.Conv1d(8, 256, 5, groups=2)
    return module


def drawn(**options) -> nn.Module:
    module = network()
    draw(module, RandomWeights(**options))
    return module


@pytest.mark.parametrize(
    ("options", "kurtosis"),
    [
        ({"distribution": "normal"}, 3.0),
        ({"distribution": "laplace"}, 6.0),
        # Gamma(5/p) Gamma(1/p) / Gamma(3/p)^2 for p = 8
        ({"distribution": "generalized_normal", "exponent": 8.0}, 1.923),
    ],
)
def test_matrices_have_variance_one_over_fan_in_and_the_stated_kurtosis(options, kurtosis):
    module = drawn(**options)
    for weight, fan_in in ((module.layers[0].weight, 64), (module.conv.weight, 20)):
        values = weight.double()
        assert abs(float(values.var()) * fan_in - 1) < 0.05
    values = module.layers[0].weight.double().flatten()
    assert abs(float((values**4).mean() / (values**2).mean() ** 2) / kurtosis - 1) < 0.15
    assert abs(float(module.table.weight.double().var()) * 16 - 1) < 0.1


def test_norms_are_the_identity_and_counts_are_zero():
    module = drawn()
    assert module.norm.weight.tolist() == [1.0] * 8 == module.norm.running_var.tolist()
    assert module.norm.bias.tolist() == [0.0] * 8 == module.norm.running_mean.tolist()
    assert module.norm.num_batches_tracked.dtype == torch.int64
    assert all(not tensor.is_meta for tensor in module.state_dict().values())


def test_equal_seeds_give_equal_weights_and_others_do_not():
    first, again, other = drawn(seed=3), drawn(seed=3), drawn(seed=4)
    assert torch.equal(first.layers[1].weight, again.layers[1].weight)
    assert not torch.equal(first.layers[1].weight, other.layers[1].weight)
    assert not torch.equal(first.layers[1].weight, first.layers[2].weight)


def test_a_shared_parameter_stays_shared():
    module = network()
    module.layers[2].weight = module.layers[0].weight
    module.again = module.layers[1]
    draw(module, RandomWeights())
    assert module.layers[2].weight is module.layers[0].weight
    assert module.again.weight is module.layers[1].weight


def test_half_precision_values_are_kept_in_fp32():
    values = drawn(half=True).layers[0].weight
    assert values.dtype == torch.float32
    assert torch.equal(values, values.half().float())
    assert not torch.equal(values, drawn().layers[0].weight)


def test_deviation_grows_with_depth():
    module = drawn(growth=1.0)
    spread = [float(layer.weight.std()) for layer in module.layers]
    np.testing.assert_allclose(np.array(spread) / spread[0], [1.0, 1.5, 2.0], rtol=0.05)


def test_an_exponent_without_its_distribution_is_refused():
    with pytest.raises(CosimError, match=r"exponent: found 2\.0 with distribution normal"):
        RandomWeights("normal", exponent=2.0)
    with pytest.raises(CosimError, match="expected exactly one of package, folder, hub, random"):
        Weights(folder="x", random=RandomWeights())
