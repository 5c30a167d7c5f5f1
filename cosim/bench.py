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
from kernels import attention, encodings, harness, panels, peaks

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
# Its attentions: (queries, keys), six heads of 64.
_ATTENTIONS = ((1500, 1500), (1, 1500), (1, 64))
_HEADS, _DEPTH = 6, 64


def cases(text: str, limits: Mapping[str, float], seed: int = 0) -> Iterator[Case]:
    """Yield the kernel cases whose id contains `text`; `limits` are GOP/s by instruction mix."""
    for k, n, rows in _WHISPER_SHAPES:
        kernels = ["f32_dense", "w8a8", "w4a8", *(["w8a32", "w4a32"] if rows == 1 else [])]
        for kernel in kernels:
            shape = f"{k}x{n}-T{rows}"
            if text in f"{kernel}/{shape}":
                yield _linear_case(kernel, shape, (k, n, rows), limits, seed)
    for queries, keys in _ATTENTIONS:
        for kernel in ("attention_f32", "attention_i8"):
            shape = f"{_DEPTH}x{keys}-T{queries}"
            if text in f"{kernel}/{shape}":
                yield _attention_case(kernel, shape, (queries, keys), limits, seed)


def _linear_case(
    kernel: str, shape: str, sizes: tuple[int, int, int], limits: Mapping[str, float], seed: int
) -> Case:
    import torch  # noqa: PLC0415, the peer

    k, n, rows = sizes
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((n, k), dtype=np.float32)
    x = generator.standard_normal((rows, k), dtype=np.float32)
    out = np.empty((rows, n), np.float32)
    peers: dict[str, Run] = {
        "torch": partial(torch.nn.functional.linear, torch.from_numpy(x), torch.from_numpy(weight)),
        "numpy": partial(np.matmul, x, weight.T, out=out),
    }
    if kernel == "f32_dense":
        encoding: encodings.Encoding = encodings.encode_dense(weight)
    else:
        bits = int(kernel[1])
        step = np.abs(weight).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        codes = np.rint(weight / step).astype(np.int8)
        encoding = encodings.encode_bitpacked(codes, step, bits=bits)
    if kernel.endswith("a8"):
        scale = np.abs(x).max(axis=1) / 127
        quantized = np.rint(x / scale[:, np.newaxis]).astype(np.int8)
        panel = panels.prepare_linear(encoding, rows=rows, activation="i8")
        ours: Run = partial(panels.linear, panel, quantized, out, x_scale=scale)
        # 4-bit codes sum in 16 bits, a mix whose peak is not calibrated
        limit = limits["pmaddwd"] if kernel == "w8a8" else 0.0
    else:
        panel = panels.prepare_linear(encoding, rows=rows, activation="f32")
        ours, limit = partial(panels.linear, panel, x, out), limits["fma"]
    return Case(kernel, shape, ours, peers, 2 * k * n * rows, limit)


def _attention_case(
    kernel: str, shape: str, sizes: tuple[int, int], limits: Mapping[str, float], seed: int
) -> Case:
    import torch  # noqa: PLC0415, the peer

    queries, keys = sizes
    generator = np.random.default_rng(seed)

    def heads(rows: int) -> NDArray[np.float32]:
        values = generator.standard_normal((rows, _HEADS, _DEPTH), dtype=np.float32)
        return values.transpose(1, 0, 2)

    q, k, v = heads(queries), heads(keys), heads(keys)
    out = np.empty((queries, _HEADS * _DEPTH), np.float32)
    peer = torch.nn.functional.scaled_dot_product_attention
    a, b, c = (torch.from_numpy(tensor)[None] for tensor in (q, k, v))
    peers: dict[str, Run] = {"torch": partial(peer, a, b, c)}
    factor = _DEPTH**-0.5
    if kernel == "attention_f32":
        ours: Run = partial(attention.attention_f32, q, k, v, factor, out)
    else:
        scales = [np.abs(t).max(axis=2) / 127 for t in (q, k)]
        codes = [
            np.rint(t / s[..., np.newaxis]).astype(np.int8)
            for t, s in zip((q, k), scales, strict=True)
        ]
        step = np.abs(v).max(keepdims=True).reshape(1) / 127
        whole = np.rint(v / step).astype(np.int8)
        ours = partial(
            attention.attention_i8,
            codes[0],
            scales[0],
            codes[1],
            scales[1],
            whole,
            step,
            factor,
            out,
        )
    limit = limits["fma" if kernel == "attention_f32" else "pmaddwd"]
    return Case(kernel, shape, ours, peers, 4 * _HEADS * queries * keys * _DEPTH, limit)


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
    import torch  # noqa: PLC0415, the peer

    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    limits: dict[str, float] = {}
    if next(cases(text, {"fma": 1.0, "pmaddwd": 1.0}), None) is not None:
        progress.stage("calibrating")
        limits = {name: peak.rate / 1e9 for name, peak in peaks.calibrate().items()}
    for case in cases(text, limits) if limits else ():
        progress.stage(case.id)
        rows.append(measure(case, rounds=rounds))
    recipes = [name for name in ("fp32", "w8a8") if text in f"whisper_{name}/"]
    if recipes:
        progress.stage("whole transcriptions")
        chosen = select(
            SpeechConfig(corpus="prompts", split="test", limit=6), progress=progress.note
        )
        rows += whisper_rows(chosen.utterances, recipes, rounds=min(rounds, 5))
    if not rows:
        raise CosimError(f"bench: no case contains {text!r}; cases are named kernel/KxN-Tt")
    return rows
