"""Oujabour et al. 2025, adaptive compression (000): sizes, quanto's files, the fuzzy classes.

A megabyte is 10^6 bytes, a size that of the file torch.save writes; the paper cuts digits.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.compress import quanto
from cosim.compress.compressed import zipped_arrays
from cosim.compress.fuzzy import BITS as FUZZY_BITS
from cosim.compress.fuzzy_classes import F64, Class, Decision, decide
from cosim.compress.network import scan
from cosim.config import configs_root, load
from cosim.models import LoadedModel
from cosim.reproduce.rows import (
    Judge,
    Remark,
    Request,
    Row,
    Source,
    TableRows,
    Verdict,
    agrees,
    by_cell,
    missing,
)
from cosim.reproduce.shapes import drawn, shapes_of

_DATA = configs_root() / "published" / "000_adaptive_compression.yaml"
_BITS: tuple[quanto.Bits, ...] = (8, 4, 2)
_SPEECH = "needs the trained weights and LibriSpeech"
_WITHOUT_MEDIUM = (
    "assumed that the two classes are low and high: with a class medium, as many layers would be "
    "of class L as in Table V, and Table VI has others"
)
_ZIP = "depends on the trained weights; none were drawn"
SAMPLE = 64 * 1024
"""Weights of each tensor that are zipped where only a sample is asked for: beyond twice zlib's
window of 32 KiB the ratio does not change."""
WITHIN_ZIP = 0.05
"""How far the zip of drawn weights may be from that of trained ones to count as in agreement."""
SHAPES: Mapping[float, str] = {
    0.8: "exponent 0.8",
    1.0: "Laplace",
    2.0: "normal",
    8.0: "nearly uniform",
}
WEIGHTS = 512 * 512
Parameters = tuple[float, float | None]
THREE_CLASSES: Mapping[str, Parameters] = {"first": (0.5, 1.0), "second": (0.5, 0.5)}
"""alpha and beta in deviations, where the printed formula is illegible: the readings whose classes
are those of Table V."""
TWO_CLASSES: Parameters = (0.5, None)
"""For Table VI, which gives no parameters; class low ends before alpha matters."""


@dataclass(frozen=True)
class System:
    """Cells of Table I and, by bits, of Table III: memory and zipped memory."""

    model: str
    parameters: str
    memory: str
    zipped: str
    quantized: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Text:
    """What section IV says: least compression at 8 and 4 bits, a WER at 2 bits."""

    compression_8: str
    compression_4: str
    branchformer_wer: str


@dataclass(frozen=True)
class Published:
    """The data file; the classes are a line per system."""

    source: Source
    systems: dict[str, System]
    three_classes: dict[str, dict[str, str]]
    two_classes: dict[str, str]
    two_bit_wer: dict[str, str]
    text: Text
    remarks: tuple[Remark, ...]


def published() -> Published:
    """Return the printed figures."""
    return load(_DATA, Published)


def _judge(data: Published, table: str) -> Judge:
    return Judge(table, by_cell(data.remarks, source=str(_DATA)))


def memory_mb(model: LoadedModel, bits: quanto.Bits | None) -> float:
    """Return the megabytes of a model's file, in fp32 or with quanto's weights."""
    folded = 4 * sum(model.folded_parameters.values())
    return (quanto.file_bytes(quanto.stored(model.module, bits)) + folded) / 1e6


def zipped_mb(model: LoadedModel, bits: quanto.Bits | None, *, sample: int | None = None) -> float:
    """Return the megabytes of a model's tensors, each behind zlib at level 6.

    With `sample`, of each tensor only whole rows of about so many weights are zipped, and count for
    all of it.
    """
    kinds = quanto.kinds_of(model.module)
    total = 0.0
    for name, weight in scan(model.module).weights.items():
        values = weight.values
        if sample is not None:
            values = values[: max(1, sample * len(values) // values.size)]
        is_quantized = name.endswith(".weight") and kinds.get(name) in quanto.QUANTIZED_KINDS
        arrays: Iterable[NDArray[Any]] = (values,)
        if bits is not None and is_quantized:
            arrays = quanto.codes(values, bits)
        total += zipped_arrays(arrays) * weight.values.size / values.size
    return total / 1e6


def _sizes(request: Request) -> Iterator[Row]:
    data = published()
    judge = _judge(data, "I")
    for name, system in data.systems.items():
        model = shapes_of(system.model)
        yield judge(f"{name} parameters", system.parameters, model.parameters / 1e6, unit="M")
        yield judge(f"{name} memory", system.memory, memory_mb(model, None), unit="MB")
        values = _drawn(system.model, request)
        yield _zipped(judge, f"{name} zipped", system.zipped, values, None, request)
    yield missing("I", "28 WERs", _SPEECH)


def _quanto(request: Request) -> Iterator[Row]:
    data = published()
    judge = _judge(data, "III")
    for name, system in data.systems.items():
        model = shapes_of(system.model)
        values = _drawn(system.model, request)
        for bits in _BITS:
            memory, zipped = system.quantized[str(bits)]
            ours = memory_mb(model, bits)
            rule = f"by the rule of {{method: quantize, preset: quanto, weight_bits: {bits}}}"
            yield judge(f"{name} memory at {bits} bits", memory, ours, unit="MB", note=rule)
            quantity = f"{name} zipped at {bits} bits"
            yield _zipped(judge, quantity, zipped, values, bits, request)


def _drawn(model: str, request: Request) -> LoadedModel | None:
    if request.zipped == "not":
        return None
    request.tell(f"drawing the weights of {model}")
    return drawn(model)


def _zipped(
    judge: Judge,
    quantity: str,
    printed: str,
    model: LoadedModel | None,
    bits: quanto.Bits | None,
    request: Request,
) -> Row:
    """Return the row of a zipped size, measured where there are drawn weights."""
    remark = judge.remarks.get(f"{judge.table}/{quantity}")
    if model is None:
        if remark is not None:
            return judge(quantity, printed, None, unit="MB", note=_ZIP)
        return Row(judge.table, quantity, "MB", printed, None, "not reproducible", _ZIP)
    request.tell(f"zipping: {quantity}")
    is_sample = request.zipped == "sampled"
    ours = zipped_mb(model, bits, sample=SAMPLE if is_sample else None)
    note = "measured on drawn weights"
    if is_sample:
        note += f", {SAMPLE} of each tensor (--zipped: all)"
    if remark is not None:
        return judge(quantity, printed, ours, unit="MB", within=WITHIN_ZIP, note=note)
    verdict: Verdict = "ambiguous"
    if not agrees(printed, ours, within=WITHIN_ZIP):
        verdict, note = "not reproducible", f"{note}, which zip otherwise than the trained ones"
    return Row(judge.table, quantity, "MB", printed, ours, verdict, note)


def classes(exponent: float, parameters: Parameters) -> Decision:
    """Return the fuzzy classes of drawn weights of one layer, and of the layer."""
    weights = generalized_normal(exponent, WEIGHTS, np.random.default_rng(0))
    return decide(weights, alpha=parameters[0], beta=parameters[1])


def generalized_normal(exponent: float, count: int, rng: np.random.Generator) -> F64:
    """Return numbers with density proportional to exp(-|x|^exponent): 2 normal, 1 Laplace.

    |x|^p is gamma distributed with shape 1/p. Classes do not depend on the scale.
    """
    sizes = rng.gamma(1.0 / exponent, size=count) ** (1.0 / exponent)
    return np.asarray(sizes * (rng.integers(0, 2, size=count) * 2.0 - 1.0))


def _three_classes(_request: Request) -> Iterator[Row]:
    """Compare classes of weights with the printed classes of layers, and their pruning rate."""
    data = published()
    for which, systems in data.three_classes.items():
        parameters = THREE_CLASSES[which]
        label = "alpha = {:g} std, beta = {:g} std".format(*parameters)
        printed = {name: [float(cell) for cell in line.split()] for name, line in systems.items()}
        for exponent, shape in SHAPES.items():
            found = classes(exponent, parameters)
            yield _majority(f"{shape} weights, {label}", found, list(printed.values()))
        rates = [line.split()[5] for line in systems.values() if line.split()[5] != "0"]
        usual = max(set(rates), key=rates.count)
        for exponent, shape in SHAPES.items():
            ours = 100 * classes(exponent, parameters).shares["L"]
            is_near = agrees(usual, ours, within=0.1)
            note = (
                "assumed that the weights of class L are what is pruned"
                if is_near
                else "the share of class L stays below it for every shape; layers with many nearly "
                "dead weights have more"
            )
            verdict: Verdict = "ambiguous" if is_near else "not reproducible"
            yield Row(
                "V", f"pruning rate, {shape} weights, {label}", "%", usual, ours, verdict, note
            )
    yield missing("V", "14 WERs and zipped sizes", _SPEECH)


def _majority(quantity: str, found: Decision, printed: list[list[float]]) -> Row:
    """Return the share of the largest class; the verdict says whether most layers are of it."""
    letters: tuple[Class, ...] = ("L", "M", "H")
    shares = {letter: found.shares[letter] for letter in letters}
    winners = [letters[int(np.argmax(line[2:5]))] for line in printed]
    usual = max(letters, key=winners.count)
    levels = [line[2 + letters.index(usual)] for line in printed]
    told = ", ".join(f"{letter} {100 * share:.1f}" for letter, share in shares.items())
    note = f"weights {told} %; layers are mostly {usual}, {min(levels):g} to {max(levels):g} %"
    verdict: Verdict = "ambiguous"
    # L and H come out within a point of one another for nearly uniform weights.
    if shares[usual] < max(shares.values()) - 0.005:
        verdict = "not reproducible"
    return Row(
        "V",
        f"share of weights of class {usual}, {quantity}",
        "%",
        "",
        100 * shares[usual],
        verdict,
        f"knots sorted, as the printed order has no meaning; {note}",
    )


def _two_classes(_request: Request) -> Iterator[Row]:
    """Interpolate between the zipped sizes of Table III by the printed shares of layers."""
    data = published()
    why = (
        "assumed 2 bits for class L and 4 bits for the rest; the text has them the other way round"
    )
    for name, line in data.two_classes.items():
        _, zipped, _, low = line.split()
        four, two = (float(data.systems[name].quantized[bits][1]) for bits in ("4", "2"))
        ours = four - float(low) / 100 * (four - two)
        is_near = agrees(zipped, ours, within=0.005)
        note = (
            why if is_near else f"{why}; layers differ in size, which shares of layers do not tell"
        )
        verdict: Verdict = "ambiguous" if is_near else "not reproducible"
        yield Row("VI", f"{name} zipped", "MB", zipped, ours, verdict, note)
    for exponent, shape in SHAPES.items():
        found = classes(exponent, TWO_CLASSES)
        bits = FUZZY_BITS[2][found.decided]
        note = f"such a layer is of class {found.decided}, {bits} bits; {_WITHOUT_MEDIUM}"
        share = 100 * found.shares["L"]
        quantity = f"share of weights of class L, {shape} weights, two classes"
        yield Row("VI", quantity, "%", "", share, "ambiguous", note)
    yield missing("VI", "7 WERs", _SPEECH)


def _text(_request: Request) -> Iterator[Row]:
    """Check what section IV says of its tables."""
    data = published()
    judge = _judge(data, "text")
    for bits, printed in (("8", data.text.compression_8), ("4", data.text.compression_4)):
        ratios = {}
        for name, system in data.systems.items():
            memory = memory_mb(shapes_of(system.model), None)
            ratios[name] = memory / float(system.quantized[bits][0])
        least = min(ratios, key=lambda name: ratios[name])
        holds = [name for name, ratio in ratios.items() if ratio > float(printed[1:])]
        note = f"least of all systems, {least}; it holds for {', '.join(holds) or 'none'}"
        yield judge(f"compression at {bits} bits", printed, ratios[least], unit="x", note=note)
    quoted, table = data.text.branchformer_wer, data.two_bit_wer["Branch"]
    others = [name for name, wer in data.two_bit_wer.items() if wer == quoted]
    note = f"{table} by Table II, where {quoted} is that of {', '.join(others)}"
    same: Verdict = "reproduced" if quoted == table else "misprint"
    yield Row("text", "Branchformer WER at 2 bits", "%", quoted, float(table), same, note)


TABLES: Mapping[str, TableRows] = {
    "I": _sizes,
    "II": lambda _: iter((missing("II", "49 WERs after quantisation", _SPEECH),)),
    "III": _quanto,
    "IV": lambda _: iter((missing("IV", "14 WERs after pruning", _SPEECH),)),
    "V": _three_classes,
    "VI": _two_classes,
    "text": _text,
}
