"""Claims about grouped and 2-D convolutions of networks whose operands are codes of 8 bits."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from espnet_reference import features, small
from ir_interpreter import Codes, run

from cosim.chip import load_chip
from cosim.compress.compressed import compress
from cosim.compress.recipe import Recipe, parse_recipe
from cosim.config import configs_root
from cosim.execute import ProgramEngine
from cosim.execute import Weights as Constants
from cosim.lower import assemble, capture_all
from cosim.models import ModelConfig, RandomWeights, Weights, load
from cosim.schedule import schedule
from hwmodels.support import require_supported
from hwmodels.workload import Gemm
from kernels import encodings as store

SELF_SUPERVISED = {
    "width": 24,
    "heads": 2,
    "layers": 2,
    "hidden": 40,
    "channels": [16, 16],
    "taps": [10, 4],
    "strides": [20, 16],
    "position_taps": 8,
    "position_groups": 4,
    "vocabulary": 6,
}
GROUPED, FIRST, SECOND = "wav2vec2.encoder.pos_conv_embed.conv", "embed.conv.0", "embed.conv.2"
NETWORKS = {
    "wav2vec2": {GROUPED: "quantized_conv1d"},
    "conformer": {
        f"encoder.{FIRST}": "quantized_conv2d",
        f"encoder.{SECOND}": "quantized_conv2d",
    },
}


@lru_cache
def network(name):
    if name == "conformer":
        return small("conformer", subsampling="conv2d6", has_decoder=False)
    weights = Weights(random=RandomWeights(seed=4))
    return load(ModelConfig("small", "wav2vec2", weights, SELF_SUPERVISED))


@lru_cache
def compressed(name, bits, layers="*"):
    entry = {"method": "quantize", "weight_bits": bits, "layers": list(layers), "activations": {}}
    recipe = parse_recipe({"methods": [entry]}, name="r", source="r.yaml")
    return compress(network(name).module, recipe)


@lru_cache
def plain(name):
    return compress(network(name).module, Recipe("fp32"))


@lru_cache
def captured(name):
    return capture_all(network(name).module.graphs(), encodings=plain(name).encodings)


@lru_cache
def program(name, bits, layers="*"):
    made = compressed(name, bits, layers)
    return assemble(name, captured(name), encodings=made.encodings, policies=made.policies)


def given(name, length):
    if name == "conformer":
        return features(length).numpy()
    samples = 320 * length
    return np.random.default_rng(samples).standard_normal((1, samples), np.float32)


def executed(name, bits, value, layers="*"):
    encodings = {f"@{key}": e for key, e in compressed(name, bits, layers).encodings.items()}
    engine = ProgramEngine(Constants(program(name, bits, layers), encodings))
    return next(iter(engine.encode(value[0]).values()))


def work(made):
    symbols = made.graph("encoder").symbols
    return schedule(made, "encoder", bindings=dict.fromkeys(symbols, 320 * 50))


def meaning(encoding):
    """A constant as the interpreter reads it."""
    if store.value_bits(encoding) == 32:
        return store.decode(encoding)
    codes, scale = store.codes(encoding), store.scales(encoding)
    return Codes(codes.reshape(len(codes), -1), scale, tuple(encoding.shape))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_convolutions_become_products_of_codes(name, bits):
    found = {op.scope: op for op in program(name, bits).graph("encoder").ops if "conv" in op.kind}
    for scope, kind in NETWORKS[name].items():
        assert found[scope].kind == kind
        gemm = next(g for g in work(program(name, bits)).items if g.name == f"encoder/{scope}")
        assert (gemm.a_number, gemm.w_number) == ("i8", "i8" if bits == 8 else "i4")


@pytest.mark.parametrize("name", NETWORKS)
def test_codes_have_the_macs_of_floats(name):
    floats = assemble(name, captured(name), encodings=plain(name).encodings)
    count = [
        {item.name: item.macs for item in items if isinstance(item, Gemm) and item.kind == "conv"}
        for items in (work(floats).items, work(program(name, 8)).items)
    ]
    assert count[0] == count[1]
    assert count[0].keys() >= {f"encoder/{scope}" for scope in NETWORKS[name]}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_convolutions_of_codes_alone_are_what_the_program_means(name, bits):
    """With all else in floats, no rounding of another quantisation can turn over."""
    layers = tuple(NETWORKS[name])
    made = compressed(name, bits, layers)
    constants = {f"@{key}": meaning(encoding) for key, encoding in made.encodings.items()}
    for length in (50, 33):
        value = given(name, length)
        graph = program(name, bits, layers).graph("encoder")
        wanted, _ = run(graph, constants, {graph.inputs[0][1:]: value})
        wanted = next(iter(wanted.values()))
        found = executed(name, bits, value, layers)
        # A code of the second convolution may round the other way.
        assert np.abs(found - wanted).max() < 5e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("length", [50, 173])
def test_eight_bits_everywhere_stay_near_torch(name, length):
    value = given(name, length)
    module = network(name).module
    with torch.no_grad():
        wanted = module.graphs()[0].module(torch.from_numpy(value))
    wanted = (wanted if isinstance(wanted, torch.Tensor) else wanted[0]).numpy()
    found = executed(name, 8, value)
    noise = np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean())
    assert 1e-5 < noise < 0.05


@pytest.mark.parametrize("name", NETWORKS)
def test_an_array_of_codes_leaves_only_float_products_to_the_vector_unit(name):
    chip = load_chip(configs_root() / "hardware" / "stacked_server_128.yaml")
    warnings = require_supported(work(program(name, 8)), chip.architecture)
    left = {line.partition(":")[0].rpartition("/")[2] for line in warnings}
    wanted = {"wav2vec2": set(), "conformer": {"self_attn", "conv_module.depthwise_conv"}}[name]
    kept = {scope for scope in left if not any(part in scope for part in wanted)}
    assert kept == set()
    assert bool(left) == bool(wanted)
