"""cosim.profile on small networks: what is counted, for which length, and what is refused."""

import json
import textwrap
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from cosim.cli import main
from cosim.config import load as load_config
from cosim.errors import CosimError
from cosim.models import ModelConfig, RandomWeights, Weights
from cosim.models import load as load_model
from cosim.profile import group_of, lowered, profile, profile_model

MODELS = {
    "whisper": """
        width: 32
        heads: 2
        encoder_layers: 2
        decoder_layers: 2
        hidden: 48
        mels: 8
        vocabulary: 51864
        source_positions: 100
        target_positions: 16
    """,
    "wav2vec2": """
        width: 32
        heads: 2
        layers: 2
        hidden: 64
        channels: [16, 16, 16]
        taps: [10, 3, 2]
        strides: [5, 2, 2]
        position_taps: 16
        position_groups: 4
        vocabulary: 12
    """,
    "transformer": """
        vocabulary: 20
        encoder: {width: 32, heads: 2, layers: 2, hidden: 48, subsampling: conv2d}
        decoder: {layers: 2, heads: 2, hidden: 48}
        features: {kind: kaldi_fbank, mels: 20, zeros: 3, hop: 160}
    """,
}


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Return the model file of a small network."""

    def written(family: str) -> Path:
        path = tmp_path_factory.getbasetemp() / f"{family}.yaml"
        dimensions = textwrap.indent(textwrap.dedent(MODELS[family]).strip(), "  ")
        path.write_text(
            f"name: small-{family}\nfamily: {family}\nweights: {{random: {{seed: 1}}}}\n"
            f"dimensions:\n{dimensions}\n",
            encoding="utf-8",
        )
        return path

    return written


@pytest.fixture(scope="module")
def counted(write):
    """Return profiles of small networks, each captured once."""

    @lru_cache
    def captured(family):
        model = load_model(load_config(write(family), ModelConfig))
        return model, lowered(model)

    def profiled(family, **asked):
        return profile(*captured(family), **asked)

    return profiled


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def loaded(path: Path):
    """Return the model without values, on torch's meta device."""
    nothing = Weights(random=RandomWeights(distribution="none"))
    return load_model(replace(load_config(path, ModelConfig), weights=nothing))


def torch_macs(path: Path, length: int, *, steps: int = 0) -> int:
    """Return MACs of one encoder call and of steps 0, 1, ..., as torch counts them."""
    encoder, *rest = loaded(path).module.graphs()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), torch.device("meta"):
        shape = [length if isinstance(size, str) else size for size in encoder.shapes[0]]
        results = encoder.module(torch.zeros(shape))
        results = results if isinstance(results, tuple) else (results,)
        named = dict(zip(encoder.outputs, results, strict=True))
        for past in range(steps if rest else 0):
            named["token"] = torch.zeros(1, 1, dtype=torch.int64)
            inputs = [
                named[name]
                if name in named
                else torch.zeros([past if s == "past" else s for s in shape])
                for name, shape in zip(rest[0].inputs, rest[0].shapes, strict=True)
            ]
            rest[0].module(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("family", MODELS)
def test_rows_add_up_to_the_total_and_hold_every_parameter_once(write, counted, family):
    found = counted(family, seconds=1.0)
    rows, total = found.rows(), found.total_row()
    for key in ("parameters", "size_bytes", "zipped_bytes", "macs", "flops", "activation_bytes"):
        assert sum(row[key] or 0 for row in rows) == total[key]
    assert total["parameters"] == loaded(write(family)).parameters
    assert total["size_bytes"] == 4 * (total["parameters"] + total["buffers"])
    for key in ("parameters_percent", "macs_percent", "activation_percent"):
        assert sum(row[key] for row in rows) == pytest.approx(100)


@pytest.mark.parametrize(
    ("family", "seconds", "length"),
    [("whisper", 2.0, 200), ("wav2vec2", 1.5, 24_000), ("transformer", 1.5, 148)],
)
def test_macs_are_those_that_torch_counts(write, counted, family, seconds, length):
    found = counted(family, seconds=seconds, steps=3, is_zipped=False)
    assert found.total.macs == torch_macs(write(family), length, steps=3)
    assert found.total.bops_bayesian_bits == 1024 * found.total.macs
    assert found.total.bops_003_gi == pytest.approx(32 * found.total.macs / 2**30)


def test_a_window_is_heard_whole_whatever_the_audio(counted):
    assert counted("whisper", seconds=1.0).lengths["encoder"] == {"frames": 200}
    half = counted("whisper", frames=100, is_zipped=False)
    assert half.lengths == {"encoder": {"frames": 100}, "step": {"past": 0, "memory": 50}}
    assert half.total.macs < counted("whisper", seconds=1.0).total.macs


def test_without_a_window_ten_seconds_are_the_default(counted):
    found = counted("wav2vec2", is_zipped=False)
    assert found.lengths == {"encoder": {"samples": 160_000}}
    assert (found.steps, found.seconds) == (0, 10.0)


def test_steps_begin_at_an_empty_cache_and_cost_more_each(counted):
    one, two, three = (
        counted("transformer", frames=100, steps=n, is_zipped=False).total.macs for n in (1, 2, 3)
    )
    # a longer cache adds one key and one value of every layer and head: 2 layers x 2 x 32
    assert (three - two) - (two - one) == 2 * 2 * 32


def test_activations_of_a_linear_layer_are_counted_once(counted):
    found = counted("transformer", frames=100, steps=1, is_zipped=False)
    group = next(g for g in found.groups if g.module == "encoder.embed.out")
    positions = found.lengths["step"]["memory"]
    assert group.activation_bytes == 4 * positions * 32


def test_folded_parameters_have_a_row_of_their_own(counted):
    found = counted("wav2vec2", seconds=1.0)
    (folded,) = (group for group in found.groups if group.mark == "folded")
    assert (folded.parameters, folded.macs, folded.zipped_bytes) == (16, 0, None)


def test_zipped_bytes_are_none_where_they_were_not_measured(counted):
    assert counted("wav2vec2", is_zipped=False).total.zipped_bytes is None
    measured = counted("wav2vec2", seconds=1.0).total
    assert 0 < measured.zipped_bytes < measured.size_bytes


@pytest.mark.parametrize(
    ("family", "asked", "message"),
    [
        ("wav2vec2", {"frames": 100}, "hears samples; use --seconds"),
        ("whisper", {"frames": 201}, "found 201, expected at most 200"),
        ("whisper", {"seconds": 2.1}, "found 2.1, expected at most 2"),
        ("wav2vec2", {"seconds": 0.001}, "found 16 samples"),
        ("transformer", {"frames": 3}, "found 3 frames"),
    ],
)
def test_lengths_that_the_model_cannot_hear_are_refused(counted, family, asked, message):
    with pytest.raises(CosimError, match=message):
        counted(family, is_zipped=False, **asked)


def test_frames_of_a_model_that_hears_samples_are_refused_before_it_is_captured(write):
    with pytest.raises(CosimError, match="hears samples"):
        profile_model(write("wav2vec2"), frames=100)


def test_groups_leave_out_layer_numbers():
    assert group_of("encoder.encoders.11.feed_forward.w_1") == "encoder.encoders.feed_forward"
    assert group_of("a.conv_layers.0.conv") == "a.conv_layers.conv"
    assert group_of("encoder.layers.3.self_attn.attention#2.scores") == "encoder.layers.self_attn"
    assert group_of("encoder.embed.conv.2") == "encoder.embed.conv"


def test_the_command_prints_every_group_and_json_has_the_named_columns(write):
    path = str(write("transformer"))
    shown = CliRunner().invoke(main, ["profile", path, "--seconds", "1", "--no-zip"])
    assert shown.exit_code == 0, shown.output
    assert "encoder.encoders.feed_forward" in shown.stdout
    result = CliRunner().invoke(main, ["profile", path, "--frames", "90", "--no-zip", "--json"])
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    wanted = {"module", "parameters", "size_bytes", "zipped_bytes", "macs", "flops"}
    wanted |= {"bops_bayesian_bits", "bops_003_gi", "activation_bytes", "macs_percent"}
    assert wanted <= set(table["rows"][0])
    assert wanted <= set(table["total"])
    assert table["total"]["lengths"]["encoder"] == {"frames": 90}
    both = CliRunner().invoke(main, ["profile", path, "--frames", "90", "--seconds", "1"])
    assert both.exit_code == 2
