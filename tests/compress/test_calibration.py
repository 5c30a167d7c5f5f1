"""Claims about calibration: ranges are those by hand, codes those of the formula, gaps are told."""

import numpy as np
import pytest
import torch
from small_networks import deviation, heard, in_torch, network, said
from torch import nn

from cosim.compress.calibrate import Ranges, calibrate
from cosim.compress.codes import Percentile
from cosim.compress.compressed import compress
from cosim.compress.network import OperandPolicy, scan
from cosim.compress.recipe import parse_recipe
from cosim.errors import CosimError
from cosim.execute import ProgramEngine, Weights
from cosim.lower import lower
from cosim.models.attention import Attention
from cosim.models.torch_engine import TorchEngine
from kernels import encodings as store

STATIC = {"bits": 8, "scale": "static"}


def recipe(*entries):
    return parse_recipe({"methods": list(entries)}, name="r", source="r.yaml")


def static(module, batches, *before, **activations):
    entry = {"method": "quantize", "weight_bits": 8, "activations": {**STATIC, **activations}}
    return compress(module, recipe(*before, entry), batches=batches)


class Block(nn.Module):
    """Products and attention of which every operand can be worked out, and a layer not called."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8, bias=False)
        self.attn = Attention(8, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = self.fc(x)
        return self.attn(y, *self.attn.keys_values(y))


@pytest.fixture
def block():
    torch.manual_seed(4)
    return Block().eval().requires_grad_(requires_grad=False)


def batch_of(x):
    return lambda module: module(x)


def operands(block, x):
    """Every operand of a call, computed apart from the module."""
    y = x @ block.fc.weight.T
    attn = block.attn
    q = y @ attn.q_proj.weight.T + attn.q_proj.bias
    k = y @ attn.k_proj.weight.T
    v = y @ attn.v_proj.weight.T + attn.v_proj.bias
    mixed = nn.functional.scaled_dot_product_attention(*(attn.split(z) for z in (q, k, v)))
    found = {("fc", "input"): x, ("attn", "q"): q, ("attn", "k"): k, ("attn", "v"): v}
    found |= {(f"attn.{name}_proj", "input"): y for name in "qkv"}
    return {**found, ("attn.out_proj", "input"): attn.join(mixed)}


def test_ranges_are_the_largest_magnitudes_over_all_batches(block):
    inputs = [torch.randn(1, 5, 8) * factor for factor in (0.3, 2.0, 1.0)]
    found = calibrate(block, map(batch_of, inputs), scan(block).layers)
    by_hand = [operands(block, x) for x in inputs]
    assert set(found) == set(by_hand[0])
    for key, largest in found.items():
        wanted = max(values[key].abs().max().item() for values in by_hand)
        assert largest == pytest.approx(wanted, rel=1e-5)


def test_percentiles_are_those_of_all_elements_of_all_batches_within_a_bin(block):
    inputs = [torch.randn(1, 50, 8) * factor for factor in (0.3, 2.0)]
    found = calibrate(block, map(batch_of, inputs), scan(block).layers, reach=Percentile(90.0))
    by_hand = [operands(block, x) for x in inputs]
    for key, end in found.items():
        together = np.concatenate([values[key].abs().ravel().numpy() for values in by_hand])
        wanted = np.sort(together)[int(np.ceil(0.9 * together.size)) - 1]
        assert wanted <= end <= wanted * (1 + 2**-7)


def test_the_hundredth_percentile_is_the_largest_magnitude():
    ranges = Ranges(has_counts=True)
    ranges.see(("a", "input"), torch.tensor([0.1, -3.0, 2.0]))
    assert ranges.ends(Percentile(100.0)) == {("a", "input"): 3.0}


def test_an_operand_that_was_zero_throughout_has_the_smallest_range():
    ranges = Ranges(has_counts=False)
    ranges.see(("a", "input"), torch.zeros(4))
    assert ranges.ends("minmax") == {("a", "input"): 2.0**-100}


def test_values_that_are_not_finite_are_told_with_their_layer(block):
    bad = torch.full((1, 2, 8), float("nan"))
    with pytest.raises(CosimError, match="fc: input: found values that are not finite"):
        calibrate(block, [batch_of(bad)], scan(block).layers)


def test_the_module_is_left_as_it_was_without_hooks(block):
    before = {name: value.clone() for name, value in block.state_dict().items()}
    calibrate(block, [batch_of(torch.randn(1, 3, 8))], scan(block).layers)
    static(block, [batch_of(torch.randn(1, 3, 8))])
    assert all((value == before[name]).all() for name, value in block.state_dict().items())
    assert not any(module._forward_pre_hooks for module in block.modules())


def test_scales_are_tensors_of_the_network_counted_and_named_after_their_operand(block):
    x = torch.randn(1, 6, 8)
    made = static(block, [batch_of(x)])
    for (target, operand), values in operands(block, x).items():
        stored = store.decode(made.encodings[f"{target}.{operand}_scale"])
        assert stored.shape == (1,)
        assert stored[0] == pytest.approx(values.abs().max().item() / 127, rel=1e-5)
        assert OperandPolicy(target, operand, 8, True, "tensor", "static") in made.policies
    rows = {row.name: row for row in made.ledger}
    assert rows["fc.input_scale"].size_bits == 32
    (note,) = [text for text in made.notes if text.startswith("calibration")]
    assert "no input reached 1 layers (head)" in note


def test_ranges_are_those_of_the_network_that_earlier_entries_left(block):
    x = torch.randn(1, 6, 8)
    pruned = {"method": "prune_magnitude", "rate": 0.9, "layers": "fc"}
    made = static(block, [batch_of(x)], pruned)
    values = compress(block, recipe(pruned)).encodings["fc.weight"]
    y = x.numpy() @ store.decode(values).T
    found = store.decode(made.encodings["attn.q_proj.input_scale"])
    assert found[0] == pytest.approx(np.abs(y).max() / 127, rel=1e-5)


def test_without_calibration_inputs_a_static_scale_is_one_error_that_says_what_to_give(block):
    with pytest.raises(CosimError) as caught:
        static(block, [])
    (problem,) = caught.value.problems
    assert "methods.0 (quantize)" in problem
    assert "--calibration" in problem


def test_keys_that_contradict_each_other_are_refused():
    with pytest.raises(CosimError, match="per: found row with a static scale"):
        static(None, [], per="row")
    with pytest.raises(CosimError, match="range: found one with a dynamic scale"):
        static(None, [], scale="dynamic", range={"percentile": 99.0})


def drive(module):
    said(TorchEngine(module.graphs()), "whisper")


@pytest.fixture(scope="module")
def whisper():
    made = static(network("whisper"), [drive])
    program = lower("small", made.module.graphs(), encodings=made.encodings, policies=made.policies)
    return made, program


def test_every_product_of_whisper_reads_codes_by_calibrated_scales(whisper):
    _, program = whisper
    kinds = [op.kind for graph in program.graphs for op in graph.ops]
    assert "quantize" in kinds
    assert not {"linear", "conv1d", "attention", "dynamic_quantize"} & set(kinds)


def test_one_value_is_quantised_once_for_all_who_read_it(whisper):
    _, program = whisper
    for graph in program.graphs:
        read = [op.inputs[0] for op in graph.ops if op.kind == "quantize"]
        assert len(read) == len(set(read))


def test_caches_hold_codes_of_keys_and_of_values_too(whisper):
    _, program = whisper
    step = program.graph("step")
    assert step.states
    assert {step.types[name].dtype for name, _ in step.states} == {"i8"}
    # keys and values of the encoder are handed over as codes, without scales
    handed = [name for name in step.inputs if name.endswith(".codes")]
    assert len(handed) == 4
    assert not any(name.endswith(".scales") for name in step.inputs)


def test_what_is_heard_is_near_the_network_in_float32(whisper):
    made, program = whisper
    constants = {f"@{key}": value for key, value in made.encodings.items()}
    found = said(ProgramEngine(Weights(program, constants)), "whisper")
    assert 0 < deviation(found, in_torch(network("whisper"), "whisper")) < 0.05


def test_a_layer_that_no_input_reached_is_refused_where_the_program_calls_it():
    def encoder_alone(module):
        TorchEngine(module.graphs()).encode(heard("whisper"))

    made = static(network("whisper"), [encoder_alone])
    with pytest.raises(CosimError) as caught:
        lower("small", made.module.graphs(), encodings=made.encodings, policies=made.policies)
    told = caught.value.problems
    assert all("no calibration input reached it" in problem for problem in told)
    assert any(problem.startswith("decoder.layers.0.fc1 (linear)") for problem in told)
    assert not any(problem.startswith("encoder") for problem in told)
