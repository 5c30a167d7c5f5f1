"""cosim.compress.quanto: exact bytes of what optimum-quanto stores, and the codes themselves."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from cosim.compress import quanto


class Mixed(nn.Module):
    """One module of every kind, with row lengths of every grouping."""

    def __init__(self) -> None:
        super().__init__()
        self.whole_groups = nn.Linear(256, 130)
        self.short_rows = nn.Linear(100, 7)
        self.groups_of_32 = nn.Linear(160, 9, bias=False)
        self.no_groups = nn.Linear(300, 2)
        self.planes = nn.Conv2d(3, 33, 3)
        self.frames = nn.Conv1d(4, 5, 3)
        self.table = nn.Embedding(10, 6)
        self.norm = nn.BatchNorm1d(5)


@pytest.fixture
def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


def bytes_of(module: nn.Module, bits: quanto.Bits | None) -> int:
    return quanto.size_bytes(quanto.stored(module, bits))


def test_a_linear_layer_of_8_bits_has_a_byte_a_weight_and_a_scale_a_row():
    # 130 x 256 codes, 130 scales, 130 biases, two scales of the module
    assert bytes_of(nn.Sequential(nn.Linear(256, 130)), 8) == 33280 + 520 + 520 + 8


def test_a_linear_layer_of_4_bits_has_a_scale_and_a_shift_per_128_weights():
    # 33280 / 2 bytes of codes, 260 groups of 8 bytes, 130 biases, two scales
    assert bytes_of(nn.Sequential(nn.Linear(256, 130)), 4) == 16640 + 2080 + 520 + 8


@pytest.mark.parametrize(
    ("row", "group"), [(100, None), (128, None), (256, 128), (192, 96), (160, 32), (300, None)]
)
def test_groups_are_the_longest_of_128_96_64_32_that_divide_a_longer_row(row, group):
    assert quanto.group_length((5, row)) == group


def test_codes_are_packed_along_the_groups_and_padded_to_whole_bytes():
    # 7 rows of 100 weights, no groups: 2-bit codes of 4 rows share a byte, so 2 packed rows
    parts = quanto.stored_weight((7, 100), 2)
    assert parts["_data._data"].shape == (2, 100)
    assert parts["_scale"].shape == parts["_shift"].shape == (7, 1)


def test_only_linear_and_two_dimensional_convolution_weights_are_quantised(mixed):
    names = quanto.stored(mixed, 8)
    for kept in ("frames.weight", "table.weight", "norm.weight", "norm.running_mean"):
        assert names[kept].element_bytes == 4
    for coded in ("whole_groups.weight._data", "planes.weight._data"):
        assert names[coded].element_bytes == 1


def test_without_bits_a_module_takes_four_bytes_a_value_wherever_it_lives(mixed):
    values = sum(p.numel() for p in mixed.parameters()) + 2 * 5  # running mean and variance
    assert bytes_of(mixed, None) == bytes_of(mixed.to("meta"), None) == 4 * values


def test_file_size_is_that_of_torch_save_without_saving_the_values(mixed):
    file = io.BytesIO()
    state = {k: v for k, v in mixed.state_dict().items() if v.dtype.is_floating_point}
    torch.save({name: value.clone() for name, value in state.items()}, file)
    predicted = quanto.file_bytes(quanto.stored(mixed, None))
    assert abs(predicted - len(file.getbuffer())) <= 16 * len(state)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("shape", [(7, 100), (6, 256), (9, 160), (4, 3, 3, 3)])
def test_codes_give_back_weights_within_half_a_step(bits, shape):
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    parts = list(quanto.codes(weight, bits))
    codes, scale = parts[0], parts[1]
    if bits == 8:
        decoded = codes.astype(np.float32) * scale
        table = weight.reshape(len(weight), -1)
    else:
        table = weight.reshape(len(scale), -1)
        pieces = [(codes >> np.uint8(bits * i)) & (2**bits - 1) for i in range(8 // bits)]
        decoded = np.concatenate(pieces)[: len(table)] * scale - parts[2]
    assert (np.abs(decoded - table) <= scale * 0.5001).all()
    expected = list(quanto.stored_weight(shape, bits).values())
    assert [part.nbytes for part in parts] == [part.size_bytes for part in expected]


def quantised(module: nn.Module, bits: int) -> Iterator[tuple[str, torch.Tensor]]:
    library = pytest.importorskip("optimum.quanto")
    library.quantize(module, weights=getattr(library, f"qint{bits}"))
    library.freeze(module)
    for name, value in module.state_dict().items():
        if value.dtype != torch.int64:
            yield name, value


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_shapes_and_codes_are_those_of_optimum_quanto(mixed, bits):
    weights = {
        name: getattr(mixed, name).weight.detach().numpy().copy()
        for name in ("whole_groups", "short_rows", "groups_of_32", "no_groups", "planes")
    }
    predicted = quanto.stored(mixed, bits)
    made = dict(quantised(mixed, bits))
    assert {name: tuple(value.shape) for name, value in made.items()} == {
        name: part.shape for name, part in predicted.items()
    }
    for name, weight in weights.items():
        suffixes = quanto.stored_weight(weight.shape, bits)
        for suffix, ours in zip(suffixes, quanto.codes(weight, bits), strict=True):
            theirs = made[f"{name}.weight.{suffix}"].numpy()
            np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)
