"""Every stored form executes in every kind of layer: the result is torch's with decoded weights."""

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cosim.compress.network import BlockForm, NofMForm, Weight
from cosim.compress.stored import encode
from cosim.execute import Weights, fallbacks, plan
from cosim.execute.builder import KernelChoice
from cosim.lower import assemble, capture_all
from cosim.models import GraphSpec
from kernels import encodings as store
from kernels.registry import KERNELS

FRAMES = 9


class Layers(nn.Module):
    """Convolutions of every kind, a norm and a linear layer behind one another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 3, padding=1)
        self.grouped = nn.Conv1d(16, 16, 3, padding=1, groups=2)
        self.depthwise = nn.Conv1d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, 24)
        self.image = nn.Conv2d(1, 4, 3)
        self.channels = nn.Conv2d(4, 4, 3, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.grouped(self.conv(x)))
        y = self.fc(self.norm(y.transpose(1, 2)))
        return self.channels(self.image(y.unsqueeze(1)))


class Table(nn.Module):
    """Rows of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embed(ids)


@lru_cache
def network(name):
    torch.manual_seed(4)
    module = (Layers() if name == "layers" else Table()).eval().requires_grad_(False)
    sample = torch.randn(1, 8, FRAMES) if name == "layers" else torch.tensor([[3, 0, 11, 3]])
    spec = GraphSpec(
        name="main",
        module=module,
        examples=(sample,),
        inputs=("x",),
        shapes=(tuple(sample.shape),),
        outputs=("y",),
        dynamic_shapes={"ids" if name == "table" else "x": None},
        states=(),
    )
    plain = {key: store.encode_dense(value.numpy()) for key, value in module.state_dict().items()}
    return module, sample, capture_all([spec], encodings=plain)


def floats(value, number="f32"):
    """Values that 16 bits hold, half of them zero, no more than 2 of 4 in a row."""
    table = value.copy()
    rows = table.reshape(len(table), -1)
    rows[:, 1::4] = rows[:, 2::4] = 0
    if number != "f32":
        table = store.widened(store.narrowed(table, number))
    return Weight(table, number=number, form=NofMForm(2, 4))


def codes(value, bits, *, group=0, zero=None, per_tensor=False):
    """Codes with holes, a scale per group of a row, per row or for all, and zero points."""
    limit = 2 ** (bits - 1) - 1
    made = np.rint(floats(value).table * limit).clip(-limit, limit).astype(np.int8)
    columns = value[0].size
    groups = -(-columns // group) if group else 1
    shape = (1, 1) if per_tensor else (len(value), groups)
    scale = np.random.default_rng(2).uniform(0.1, 0.3, shape).astype(np.float32)
    points = None if zero is None else np.full(shape, 1, zero)
    return Weight(made, bits, scale, group if groups > 1 else 0, points, form=NofMForm(2, 4))


def signs(value):
    scale = np.abs(value.reshape(len(value), -1)).mean(axis=1, keepdims=True)
    return Weight(np.where(value < 0, -1, 1).astype(np.int8), 1, scale)


def as_stored(weight, name):
    if name == "block_sparse":
        return Weight(**{**vars(weight), "encoding": name, "form": BlockForm(4, 2)})
    return Weight(**{**vars(weight), "encoding": name})


SPARSE = ("csr", "csc", "coo", "bitmap", "n_of_m", "block_sparse")
FORMS = {
    "f16": lambda v: floats(v, "f16"),
    "bf16": lambda v: floats(v, "bf16"),
    **{f"{bits} bits": lambda v, bits=bits: codes(v, bits) for bits in (2, 3, 4, 8)},
    "4 bits per tensor": lambda v: codes(v, 4, per_tensor=True),
    "4 bits in groups": lambda v: codes(v, 4, group=8),
    "8 bits in groups": lambda v: codes(v, 8, group=8),
    "8 bits from a whole zero point": lambda v: codes(v, 8, zero=np.int8),
    "4 bits in groups from a shift": lambda v: codes(v, 4, group=8, zero=np.float32),
    "2 bits in groups from a shift": lambda v: codes(v, 2, group=8, zero=np.float32),
    "signs": signs,
    **{f"f32 {name}": lambda v, name=name: as_stored(floats(v), name) for name in SPARSE},
    **{f"f16 {name}": lambda v, name=name: as_stored(floats(v, "f16"), name) for name in SPARSE},
    **{f"bf16 {name}": lambda v, name=name: as_stored(floats(v, "bf16"), name) for name in SPARSE},
    **{f"8 bits {name}": lambda v, name=name: as_stored(codes(v, 8), name) for name in SPARSE},
    **{f"4 bits {name}": lambda v, name=name: as_stored(codes(v, 4), name) for name in SPARSE},
    "4 bits in groups csr": lambda v: as_stored(codes(v, 4, group=8), "csr"),
    "4 bits in groups block_sparse": lambda v: as_stored(codes(v, 4, group=8), "block_sparse"),
}


def executed(name, encodings):
    """Return our result, torch's with the decoded weights, and the kernels of ours."""
    module, sample, graphs = network(name)
    program = assemble("p", graphs, encodings=encodings)
    made = plan(Weights(program, {f"@{k}": v for k, v in encodings.items()}), "main", bindings={})
    made.input("x")[...] = sample.numpy()
    made.run()
    twin = copy.deepcopy(module)
    twin.load_state_dict(
        {key: torch.from_numpy(np.array(store.decode(e))) for key, e in encodings.items()}
    )
    return made.output("y"), twin(sample).numpy(), made.kernels


@pytest.mark.parametrize("form", FORMS)
def test_layers_with_weights_in_any_form_give_what_torch_gives(form):
    state = network("layers")[0].state_dict()
    encodings = {
        key: encode(FORMS[form](value.numpy()))
        if value.ndim > 1
        else store.encode_dense(value.numpy())
        for key, value in state.items()
    }
    ours, theirs, kernels = executed("layers", encodings)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    told = {choice.scope: choice for choice in kernels}
    for key, encoding in encodings.items():
        layer = key.removesuffix(".weight")
        if layer not in told or isinstance(encoding, store.Dense):
            continue
        choice = told[layer]
        # A kernel that reads neither codes nor zeros as they are stored is told as such.
        if choice.kernel == "depthwise_f32" or KERNELS[choice.kernel].values == "f32":
            assert choice.is_fallback, (layer, choice)
        if choice.is_fallback:
            told_why = choice.reason.partition("density")[0]  # densities are told as a range
            assert any(told_why in line for line in fallbacks(kernels))


def test_reasons_that_differ_in_density_are_one_warning():
    found = fallbacks(
        KernelChoice("step", f"layer{number}", "linear", "dense", reason, is_fallback=True)
        for number, reason in enumerate(
            ("density 0.61 as mask: dense", "density 0.52 as mask: dense", "widened beforehand")
        )
    )
    assert found == [
        "2 products on dense (step/layer0, ...): density 0.52 to 0.61 as mask: dense",
        "1 product on dense (step/layer2, ...): widened beforehand",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_a_table_in_any_form_are_its_decoded_rows(form):
    value = network("table")[0].state_dict()["embed.weight"].numpy()
    ours, theirs, _ = executed("table", {"embed.weight": encode(FORMS[form](value))})
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bitmap", "half"])
def test_plain_vectors_in_any_form_are_added_as_they_decode(form):
    module = network("layers")[0]
    encodings = {}
    for key, value in module.state_dict().items():
        table = value.numpy().copy()
        table.reshape(-1)[::3] = 0
        number = "f16" if form == "half" else "f32"
        table = store.widened(store.narrowed(table, "f16"))
        is_vector = table.ndim == 1
        encodings[key] = (
            encode(Weight(table, number=number, encoding=form))
            if is_vector
            else store.encode_dense(table)
        )
    ours, theirs, _ = executed("layers", encodings)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
