"""Speed of kernels and of whole transcriptions against torch and numpy, as ratios in one run.

The sides alternate (A B A B ...) on one thread and are timed in CPU seconds, so that a busy
machine disturbs all of them alike; a ratio above 1 means that ours is faster.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from time import process_time

import numpy as np
from numpy.typing import NDArray

from cosim.artefact import build, facts_of
from cosim.compress.compressed import compress
from cosim.compress.recipe import Recipe, load_recipe
from cosim.config import configs_root, load
from cosim.errors import CosimError
from cosim.evaluate import Progress, program_engines
from cosim.models import ModelConfig
from cosim.models import load as load_model
from cosim.speech.decoding import Engine, greedy
from cosim.speech.features import log_mel
from cosim.speech.manifest import SpeechConfig, Utterance
from cosim.speech.selection import load_utterance, select
from kernels import encodings, harness, panels

Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One comparison: `ours` against peers by name (`torch`, `numpy`); `operations` count 2 a MAC.

    `limit_gops` is the rate of the instruction mix that bounds `ours`, 0 where it is not known.
    """

    kernel: str
    shape: str
    ours: Run
    peers: Mapping[str, Run]
    operations: int
    limit_gops: float = 0.0

    @property
    def id(self) -> str:
        """Return `kernel/KxN-Tt`."""
        return f"{self.kernel}/{self.shape}"


def measure(case: Case, *, rounds: int = 15) -> dict[str, object]:
    """Return the result row of a case: ratios of medians, and our rate."""
    samples = harness.alternate({"ours": case.ours, **case.peers}, rounds=rounds)
    ours = samples["ours"].median_s
    gops = case.operations / ours / 1e9

    def ratio(peer: str) -> float | None:
        return samples[peer].median_s / ours if peer in samples else None

    return {
        "kernel": case.kernel,
        "shape": case.shape,
        "threads": 1,
        "ratio_torch": ratio("torch"),
        "ratio_numpy": ratio("numpy"),
        "share_of_limit": gops / case.limit_gops if case.limit_gops else None,
        "gops": gops,
    }


# The products of Whisper tiny.en: (k, n, rows), encoder, decoder step and vocabulary.
_WHISPER_SHAPES = (
    (384, 384, 1500),
    (384, 1536, 1500),
    (1536, 384, 1500),
    (384, 384, 1),
    (384, 1536, 1),
    (384, 51864, 1),
)


def linear_cases(limits: Mapping[str, float], seed: int = 0) -> Iterator[Case]:
    """Yield every linear kernel at the shapes of Whisper tiny.en; limits are GOP/s by mix."""
    import torch  # noqa: PLC0415, the peer

    generator = np.random.default_rng(seed)
    for k, n, rows in _WHISPER_SHAPES:
        weight = generator.standard_normal((n, k), dtype=np.float32)
        x = generator.standard_normal((rows, k), dtype=np.float32)
        out = np.empty((rows, n), np.float32)
        ours_x, ours_w = torch.from_numpy(x), torch.from_numpy(weight)
        peers: dict[str, Run] = {
            "torch": partial(torch.nn.functional.linear, ours_x, ours_w),
            "numpy": partial(np.matmul, x, weight.T, out=out),
        }
        for name, ours in _linear_kernels(weight, x, out):
            limit = limits["fma"] if name == "f32_dense" or "a32" in name else limits["pmaddwd"]
            yield Case(name, f"{k}x{n}-T{rows}", ours, peers, 2 * k * n * rows, limit)


def _linear_kernels(
    weight: NDArray[np.float32], x: NDArray[np.float32], out: NDArray[np.float32]
) -> Iterator[tuple[str, Run]]:
    rows = len(x)
    dense = panels.prepare_linear(encodings.encode_dense(weight), rows=rows, activation="f32")
    yield "f32_dense", partial(panels.linear, dense, x, out)
    scale = np.abs(x).max(axis=1) / 127
    codes = np.rint(x / scale[:, np.newaxis]).astype(np.int8)
    for bits, limit in ((8, 127), (4, 7)):
        step = np.abs(weight).max(axis=1, keepdims=True) / limit
        packed = encodings.encode_bitpacked(np.rint(weight / step).astype(np.int8), step, bits=bits)
        integer = panels.prepare_linear(packed, rows=rows, activation="i8")
        yield f"w{bits}a8", partial(panels.linear, integer, codes, out, x_scale=scale)
        if rows == 1:
            wide = panels.prepare_linear(packed, rows=rows, activation="f32")
            yield f"w{bits}a32", partial(panels.linear, wide, x, out)


def whisper_rows(
    utterances: Iterable[Utterance], recipes: Iterable[str] = ("fp32", "w8a8"), rounds: int = 3
) -> Iterator[dict[str, object]]:
    """Yield one row per recipe: whole transcriptions against the same module in torch.

    One thread, process CPU time, features not counted; every engine hears every utterance once a
    round, in alternation. The ratio is that of the sums over utterances, median over rounds.
    """
    from cosim.models.torch_engine import torch_engine  # noqa: PLC0415, imports torch

    loaded = load_model(load(configs_root() / "models" / "whisper_tiny_en.yaml", ModelConfig))
    facts = facts_of(loaded)
    engines: dict[str, Engine] = {"torch": torch_engine(loaded)}
    for name in recipes:
        recipe: Recipe = load_recipe(configs_root() / "recipes" / f"{name}.yaml")
        artefact = build(loaded, compress(loaded.module, recipe), facts)
        engines[name] = program_engines(artefact)()
    features = [log_mel(load_utterance(item)) for item in utterances]
    times: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        greedy(engine, features[0], loaded.decoding)
    for _ in range(rounds):
        spent = dict.fromkeys(engines, 0.0)
        for window in features:
            for name, engine in engines.items():
                started = process_time()
                greedy(engine, window, loaded.decoding)
                spent[name] += process_time() - started
        for name, value in spent.items():
            times[name].append(value)
    for name in list(engines)[1:]:
        ratios = [a / b for a, b in zip(times["torch"], times[name], strict=True)]
        yield {
            "kernel": f"whisper_{name}",
            "shape": f"{loaded.name}-{len(features)}utterances",
            "threads": 1,
            "ratio_torch": float(np.median(ratios)),
            "ratio_numpy": None,
            "share_of_limit": None,
            "gops": None,
            "seconds_per_utterance": float(np.median(times[name])) / len(features),
        }


def bench(text: str, *, rounds: int, progress: Progress) -> list[dict[str, object]]:
    """Return one row per case whose id contains `text`.

    Whole transcriptions take the first utterances of the prompts test split.
    """
    rows: list[dict[str, object]] = []
    progress.stage("calibrating")
    limits = {name: rate / 1e9 for name, rate in harness.calibrate().items()}
    for case in linear_cases(limits):
        if text in case.id:
            progress.stage(case.id)
            rows.append(measure(case, rounds=rounds))
    if text in "whisper_fp32 whisper_w8a8":
        progress.stage("whole transcriptions")
        speech = SpeechConfig(corpus="prompts", split="test", limit=4)
        chosen = select(speech, progress=progress.note)
        rows += whisper_rows(chosen.utterances, rounds=min(rounds, 5))
    if not rows:
        raise CosimError(f"bench: no case contains {text!r}; cases are named kernel/KxN-Tt")
    return rows
