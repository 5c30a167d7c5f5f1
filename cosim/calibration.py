"""Calibration inputs from speech: utterances that drive a network from its features to its tokens.

No transcript is needed: what matters is how large operands get, not what is said.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cosim.compress.calibrate import Batch
from cosim.evaluate import DRAWN_TOKENS_PER_SECOND
from cosim.models import AttentionRules, Decoding, LoadedModel, Network
from cosim.speech.decoding import decode
from cosim.speech.features import features
from cosim.speech.manifest import SpeechConfig, Utterance
from cosim.speech.selection import load_utterance, select

if TYPE_CHECKING:
    from torch import nn


def calibration_batches(
    loaded: LoadedModel,
    speech: SpeechConfig,
    *,
    limit: int | None = None,
    relative_to: Path | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[Batch, ...]:
    """Return a batch for each utterance of `speech`, the first `limit` of them.

    A batch computes the features of its audio when it is called, runs the module's graphs in torch
    and decodes greedily, so that each step of a decoder is seen. Manifest rows need no text. Raises
    CosimError for broken rows and unusable recordings.

    Example:
        compress(loaded.module, recipe, batches=calibration_batches(loaded, speech, limit=16))

    """
    listed = replace(speech, limit=limit) if limit is not None else speech
    chosen = select(
        listed,
        relative_to=relative_to,
        max_seconds=loaded.front.window_s,
        progress=progress,
        is_transcribed=False,
    )
    return tuple(_batch(loaded, utterance, progress) for utterance in chosen.utterances)


def _batch(loaded: LoadedModel, utterance: Utterance, progress: Callable[[str], None]) -> Batch:
    def drive(module: "nn.Module") -> object:
        from cosim.models.torch_engine import TorchEngine  # noqa: PLC0415, imports torch

        progress(f"calibrating with {utterance.id}")
        heard = features(load_utterance(utterance), loaded.front)
        engine = TorchEngine(cast("Network", module).graphs())
        return decode(engine, heard, _greedy(loaded, utterance.duration_s or 0.0))

    return drive


def _greedy(loaded: LoadedModel, seconds: float) -> Decoding:
    """Return the model's rules without a beam; drawn weights, which do not end, by length."""
    rules = loaded.decoding
    if not isinstance(rules, AttentionRules):
        return rules
    most = rules.max_tokens
    if loaded.is_random:
        most = min(most, max(1, round(DRAWN_TOKENS_PER_SECOND * seconds)))
    return replace(rules, beam=1, ctc_weight=0.0, max_tokens=most)
