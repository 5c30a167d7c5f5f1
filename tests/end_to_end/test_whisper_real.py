"""The embedded default on real speech: what the executor hears, against torch and the reference."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosim.artefact import build, captured, facts_of
from cosim.calls import Caller
from cosim.chip import load_chip
from cosim.compress.compressed import compress
from cosim.compress.recipe import load_recipe
from cosim.config import configs_root, load
from cosim.errors import CosimError
from cosim.evaluate import difference_interval, measure, program_engines, transcribe
from cosim.models import ModelConfig
from cosim.models import load as load_model
from cosim.models.torch_engine import torch_engine
from cosim.speech.decoding import greedy
from cosim.speech.features import log_mel
from cosim.speech.manifest import SpeechConfig
from cosim.speech.selection import load_utterance, select
from hwmodels.array import closed_form
from hwmodels.simulate import simulate_calls
from hwmodels.workload import Gemm
from kernels import panels
from kernels.encodings import codes, value_bits

pytestmark = pytest.mark.slow
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "speech"
TEST_OTHER = SHARED / "librispeech" / "test_other.jsonl"
TORCH_ERRORS = 220  # of 1558 words in TEST_OTHER, as torch in fp32 hears it; ours too


@pytest.fixture(scope="module")
def loaded():
    try:
        return load_model(load(configs_root() / "models" / "whisper_tiny_en.yaml", ModelConfig))
    except CosimError as error:
        pytest.skip(f"default weights are not installed: {error}")


@pytest.fixture(scope="module")
def artefacts(loaded):
    facts = facts_of(loaded)
    recipes = {n: load_recipe(configs_root() / "recipes" / f"{n}.yaml") for n in ("fp32", "w8a8")}
    graphs = captured(loaded)
    return {n: build(loaded, compress(loaded.module, r), facts, graphs) for n, r in recipes.items()}


@pytest.fixture(scope="module")
def prompts():
    return select(SpeechConfig(corpus="prompts", split="test"), progress=lambda _text: None)


@pytest.fixture(scope="module")
def test_other():
    if not TEST_OTHER.exists():
        pytest.skip("the test-other subset is not beside the repository")
    return select(SpeechConfig(manifest=str(TEST_OTHER)), progress=lambda _text: None)


def some(speech, step):
    """Return every `step`-th utterance; `cosim run` on the shipped experiments takes all."""
    return replace(speech, utterances=speech.utterances[::step])


def hear(speech, loaded, artefacts):
    makers = {"torch": lambda: torch_engine(loaded)}
    makers |= {name: program_engines(artefact) for name, artefact in artefacts.items()}
    heard = {
        name: transcribe(maker, speech, artefact=artefacts["fp32"])
        for name, maker in makers.items()
    }
    return heard, {name: measure(items, "whisper_english") for name, items in heard.items()}


def points(measured, name, other):
    return 100 * (measured[name].wer - measured[other].wer)


def test_prompts_are_heard_as_published(prompts, artefacts):
    heard = transcribe(program_engines(artefacts["fp32"]), prompts, artefact=artefacts["fp32"])
    assert len(heard) == 89
    assert abs(100 * measure(heard, "whisper_english").wer - 3.23) <= 0.2
    assert not any(item.hit_limit for item in heard)


def test_prompts_are_heard_as_by_torch(prompts, loaded, artefacts):
    heard, measured = hear(some(prompts, 6), loaded, artefacts)
    same = [a.text == b.text for a, b in zip(heard["fp32"], heard["torch"], strict=True)]
    assert sum(same) >= 0.99 * len(same)
    assert abs(points(measured, "w8a8", "fp32")) <= 2.5  # a word is 0.8 points
    low, high = difference_interval(
        measured["w8a8"], measured["fp32"], [item.speaker for item in heard["fp32"]]
    )
    assert low <= points(measured, "w8a8", "fp32") / 100 <= high


def test_the_test_other_subset_is_heard_as_by_torch(test_other, loaded, artefacts):
    few = some(test_other, 8)
    _, measured = hear(few, loaded, {"fp32": artefacts["fp32"]})
    assert len(few.utterances) == 10
    assert abs(points(measured, "fp32", "torch")) <= 0.4  # a word is 0.5 points


def test_8_bit_codes_lose_little_on_the_test_other_subset(test_other, artefacts):
    assert len(test_other.utterances) == 80
    assert sum(len(item.text.split()) for item in test_other.utterances) == 1544
    heard = transcribe(program_engines(artefacts["w8a8"]), test_other, artefact=artefacts["fp32"])
    found = measure(heard, "whisper_english")
    assert len({item.speaker for item in heard}) == 8
    # all 80: on a quarter of them a few words that flip either way count 2.5 points
    assert abs(found.total.errors - TORCH_ERRORS) <= 0.01 * found.total.words


def test_encoder_and_first_logits_agree_with_torch(prompts, loaded, artefacts):
    ours, theirs = program_engines(artefacts["fp32"])(), torch_engine(loaded)
    for utterance in prompts.utterances[:10]:
        features = log_mel(load_utterance(utterance))
        tokens = greedy(theirs, features, loaded.decoding).tokens
        theirs.encode(features)
        ours.encode(features)
        for name, _ in ours.encoder.graph.outputs:
            expected = theirs.handed[name].numpy()
            assert np.abs(ours.encoder.output(name) - expected).max() <= 1e-3, name
        for past, token in enumerate((*loaded.decoding.prompt, *tokens)[:20]):
            difference = np.abs(ours.step(token, past) - theirs.step(token, past)).max()
            assert difference <= 1e-3, (utterance.id, past)


@pytest.mark.parametrize("name", ["fp32", "w8a8"])
def test_an_engine_hears_the_same_twice(prompts, loaded, artefacts, name):
    engine = program_engines(artefacts[name])()
    first, second = (log_mel(load_utterance(item)) for item in prompts.utterances[:2])
    once = greedy(engine, first, loaded.decoding)
    greedy(engine, second, loaded.decoding)
    assert greedy(engine, first, loaded.decoding) == once


# chips with memory for whole layers and more of it than the array can use: nothing is cut up
@pytest.mark.parametrize("name", ["stacked_edge_16", "stacked_edge_32", "stacked_server_128"])
def test_array_cycles_of_every_product_are_the_closed_form(artefacts, name):
    # A softmax that follows its scores asks for whole rows, and so for tiles below the array; so
    # may the soonest end of scores, where memory takes longer to store them.
    path = configs_root() / "hardware" / f"{name}.yaml"
    assignments = ["mapping.fusion=marked", "memory.fidelity=roofline", "mapping.objective=latency"]
    chip = load_chip(path, assignments=assignments)
    array = chip.architecture.array
    calls = Caller(artefacts["w8a8"]).utterance(30.0, [1, 1, 1])
    found = simulate_calls(calls, chip.architecture, technology=chip.technology, energy=chip.energy)
    checked = 0
    for call, stats in zip(calls, found, strict=True):
        cycles = {layer.name: layer.cycles.array for layer in stats.layers}
        for item in call.items:
            if isinstance(item, Gemm):
                one = closed_form(
                    array.schedule,
                    m=item.m,
                    n=item.n,
                    k=item.k,
                    rows=array.rows,
                    columns=array.columns,
                    dataflow=array.dataflow,
                    drain=array.drain,
                )
                assert cycles[item.name] == item.count * one, item.name
                checked += 1
    assert checked == 189


@pytest.mark.parametrize("recipe", ["w8a8", "w4a8"])
def test_integer_layers_equal_numpy_integers_bit_for_bit(loaded, recipe):
    chosen = load_recipe(configs_root() / "recipes" / f"{recipe}.yaml")
    encodings = compress(loaded.module, chosen).encodings
    generator = np.random.default_rng(5)
    checked = 0
    for encoding in encodings.values():
        if value_bits(encoding) == 32:
            continue
        table = codes(encoding)
        taps = encoding.shape[2] if len(encoding.shape) == 3 else 1
        n, k = table.shape
        x = generator.integers(-127, 128, (7, k)).astype(np.int8)
        x[0] = 127 * np.sign(table[0])
        panel = panels.prepare_linear(encoding, rows=7, activation="i8", kernel_size=taps)
        sums = np.empty((7, n), np.int32)
        panels.accumulate(panel, x, sums)
        ordered = table.reshape(n, k // taps, taps).transpose(0, 2, 1).reshape(n, k)
        expected = x.astype(np.float64) @ ordered.astype(np.float64).T  # exact below 2 ** 53
        assert np.array_equal(sums, expected.astype(np.int64))
        checked += 1
    assert checked == 67
