"""Whole networks: transcriptions by our program against the same weights in torch and CTranslate2.

A network is a row of NETWORKS; its engines take turns over the same inputs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.artefact import build, captured, facts_of
from cosim.bench.cases import AbsentError
from cosim.bench.measure import Row
from cosim.bench.peers import load as load_peer
from cosim.bench.simulators import VARIANTS, simulator_rows
from cosim.compress.compressed import compress
from cosim.compress.recipe import load_recipe
from cosim.config import configs_root, load
from cosim.errors import CosimError
from cosim.evaluate import Progress, program_engines
from cosim.models import DecodingValues, ModelConfig
from cosim.models import load as load_model
from cosim.speech.decoding import greedy
from cosim.speech.features import log_mel
from cosim.speech.manifest import SpeechConfig, Utterance
from cosim.speech.selection import load_utterance, select
from kernels.harness import Sample, ratio

F32 = NDArray[np.float32]
UTTERANCES = 6
ROUNDS = 5
WHISPER = ("fp32", "w8a8", "w4a8")
ENCODER = ("fp32", "w8a8", "w4a8", "sparse80", "w1a1")
ANCHOR = "torch"
Engine = Callable[[F32], object]
"""From one input of a network to what it says, comparable by ==."""


@dataclass(frozen=True)
class Network:
    """A whole network: ``rows`` yields those of the variants that are chosen by a text."""

    name: str
    variants: tuple[str, ...]
    rows: Callable[[str, int, Progress], Iterator[Row]]

    def chosen(self, text: str) -> list[str]:
        """Return the variants whose id ``name_variant/`` contains `text`."""
        return [variant for variant in self.variants if text in f"{self.name}_{variant}/"]


def network_rows(
    name: str,
    shape: str,
    engines: Mapping[str, Engine],
    *,
    ours: Sequence[str],
    inputs: Sequence[F32],
    rounds: int,
    notes: Sequence[str] = (),
) -> Iterator[Row]:
    """Yield one row for each engine of `ours`, all engines of one alternating run beside it.

    One thread, process CPU time. Each round every engine takes every input, in turns; a ratio is
    that of the sums over inputs, median over rounds. ``error`` is the share of inputs whose result
    differs from that of the anchor, torch; ``length_ratio`` the tokens said over those of torch,
    as time goes with them.
    """
    spoken = {key: [engine(one) for one in inputs] for key, engine in engines.items()}
    seconds: dict[str, list[float]] = {key: [] for key in engines}
    for _ in range(rounds):
        spent = dict.fromkeys(engines, 0.0)
        for one in inputs:
            for key, engine in engines.items():
                started = process_time()
                engine(one)
                spent[key] += process_time() - started
        for key, value in spent.items():
            seconds[key].append(value)
    samples = {key: Sample(tuple(values)) for key, values in seconds.items()}

    def differing(key: str) -> float:
        pairs = zip(spoken[key], spoken[ANCHOR], strict=True)
        return sum(mine != other for mine, other in pairs) / len(inputs)

    for key in ours:
        against = ratio(samples[ANCHOR], samples[key])
        yield {
            "kernel": f"{name}_{key}",
            "shape": shape,
            "threads": 1,
            "ratio_torch": against.median,
            "ratio_numpy": None,
            "share_of_limit": None,
            "gops": None,
            "case": f"{name}_{key}/{shape}",
            "weights": "hot",
            "seconds": samples[key].median_s / len(inputs),
            "ratio_torch_interval": [against.low, against.high, against.coverage],
            "error": differing(key),
            "length_ratio": _length(spoken[key]) / max(1, _length(spoken[ANCHOR])),
            "peers": {
                other: {
                    "ratio_torch": ratio(samples[ANCHOR], samples[other]).median,
                    "ratio_ours": ratio(samples[other], samples[key]).median,
                    "error": differing(other),
                }
                for other in engines
                if other not in ours
            },
            "notes": list(notes),
        }


def _length(results: Sequence[object]) -> int:
    """Return the number of tokens in all results, 0 for results that are no sequences."""
    return sum(len(one) for one in results if isinstance(one, tuple))


# --- Whisper ----------------------------------------------------------------------------------


def whisper_rows(
    utterances: Iterable[Utterance], recipes: Iterable[str] = WHISPER, rounds: int = 3
) -> Iterator[Row]:
    """Yield one row per recipe: whole greedy transcriptions of Whisper tiny.en.

    Features are not counted. Peers are the same module in torch and, where it is installed,
    CTranslate2 with the very file the weights come from, in float32 and int8.
    """
    from cosim.models.torch_engine import torch_engine  # noqa: PLC0415, imports torch

    config = load(configs_root() / "models" / "whisper_tiny_en.yaml", ModelConfig)
    loaded = load_model(config)
    facts, graphs = facts_of(loaded), captured(loaded)

    rules = loaded.decoding
    if not isinstance(rules, DecodingValues):
        raise TypeError(f"{loaded.name}: found {type(rules).__name__}, expected Whisper's rules")

    def tokens(engine: Any) -> Engine:
        return lambda features: greedy(engine, features, rules).tokens

    engines: dict[str, Engine] = {ANCHOR: tokens(torch_engine(loaded))}
    ours = list(recipes)
    for name in ours:
        recipe = load_recipe(configs_root() / "recipes" / f"{name}.yaml")
        artefact = build(loaded, compress(loaded.module, recipe), facts, graphs)
        engines[name] = tokens(program_engines(artefact)())
    notes = []
    for kind in ("float32", "int8"):
        try:
            engines[f"ctranslate2_{kind}"] = _ctranslate2(config, rules, kind)
        except AbsentError as error:
            notes.append(f"ctranslate2_{kind}: {error}")
    inputs = [log_mel(load_utterance(item)) for item in utterances]
    shape = f"{loaded.name}-{len(inputs)}utterances"
    yield from network_rows(
        "whisper", shape, engines, ours=ours, inputs=inputs, rounds=rounds, notes=notes
    )


def _ctranslate2(config: ModelConfig, rules: DecodingValues, kind: str) -> Engine:
    """Return CTranslate2's greedy transcription with the same prompt and suppressed tokens."""
    package = config.weights.package
    if package is None:
        raise AbsentError("the weights are not in CTranslate2's format")
    runtime = load_peer("ctranslate2", "ctranslate2")
    distribution = metadata.distribution(package.distribution)
    model = runtime.models.Whisper(
        str(distribution.locate_file(package.folder)),
        device="cpu",
        compute_type=kind,
        inter_threads=1,
        intra_threads=1,
    )

    def run(features: F32) -> object:
        found = model.generate(
            runtime.StorageView.from_array(np.ascontiguousarray(features)[np.newaxis]),
            [list(rules.prompt)],
            beam_size=1,
            max_length=len(rules.prompt) + rules.max_steps,
            suppress_blank=True,
            suppress_tokens=list(rules.suppressed),
        )
        return tuple(token for token in found[0].sequences_ids[0] if token < rules.end)

    return run


def _prompts(text: str, rounds: int, progress: Progress) -> Iterator[Row]:
    speech = SpeechConfig(corpus="prompts", split="test", limit=UTTERANCES)
    try:
        chosen = select(speech, progress=progress.note)
    except CosimError as error:
        raise AbsentError(str(error)) from None
    load_peer("torch", "torch")
    variants = _WHISPER.chosen(text)
    yield from whisper_rows(chosen.utterances, variants, rounds=min(rounds, ROUNDS))


def _encoder(text: str, rounds: int, _progress: Progress) -> Iterator[Row]:
    load_peer("torch", "torch")
    from cosim.bench.networks import encoder_rows  # noqa: PLC0415, imports torch

    yield from encoder_rows(text, rounds=min(rounds, ROUNDS))


_WHISPER = Network("whisper", WHISPER, _prompts)
NETWORKS: tuple[Network, ...] = (
    _WHISPER,
    Network("encoder", ENCODER, _encoder),
    Network("simulate", VARIANTS, simulator_rows),
)
"""Whole networks, and simulations of them, by name."""
