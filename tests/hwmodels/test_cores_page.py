"""docs/cores.md: its table is what the model says of one encoder layer, its keys are read."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hw_samples import gemm, tensor, vector

from cosim.chip import load_chip
from cosim.config import configs_root, parse
from hwmodels.architecture import Cores, Split
from hwmodels.batch import simulate_batch
from hwmodels.cores import efficiency, speed_up
from hwmodels.simulate import simulate
from hwmodels.stats import combine
from hwmodels.workload import Workload

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "cores.md").read_text()
HEADER = "| cores | split | cycles | speed-up | efficiency | waiting | DRAM MB | mJ |"


def quantised(name, x, *, width=None):
    """Return 8-bit codes of a tensor with a scale per row, and the op that makes them."""
    rows = x.elements // (width or x.shape[-1])
    codes = tensor(f"{name}.codes", "activation", (rows, x.elements // rows))
    scales = tensor(f"{name}.scales", "activation", (rows,), 32)
    op = vector(
        f"{name}.quantize",
        "dynamic_quantize_row",
        (x,),
        (codes, scales),
        elements=x.elements,
        row_length=x.elements // rows,
    )
    return codes, scales, op


def linear(name, x, scales, n):
    """Return a linear layer on codes, with its epilogues."""
    m, k = x.shape
    y = tensor(name, "activation", (m, n), 32)
    bias = tensor(f"{name}.bias", "constant", (n,), 32)
    return y, (
        gemm(name, m, n, k, a=x, w=tensor(f"{name}.w", "constant", (n, k)), result=y),
        vector(f"{name}.deq", "dequantize", (y, scales), (y,), is_fused=True),
        vector(f"{name}.add", "bias", (y, bias), (y,), is_fused=True),
    )


def encoder_layer(m=499, d=768, heads=12, hidden=3072):
    """One layer of wav2vec2-base on 10 s of audio, in 8 bits with a scale per row."""
    x = tensor("x", "input", (m, d), 32)
    codes, scales, op = quantised("x", x)
    items, parts = [op], []
    for name in ("query", "key", "value"):
        y, ops = linear(name, codes, scales, d)
        part = tensor(f"{name}.part", "activation", (m, d))
        items += [*ops, vector(f"{name}.codes", "quantize", (y,), (part,), is_fused=True)]
        parts.append(part)
    query, key, value = parts
    scores = tensor("scores", "activation", (heads, m, m), 32)
    weights = tensor("weights", "activation", (heads, m, m))
    context = tensor("context", "activation", (heads, m, d // heads), 32)
    items += [
        gemm("scores", m, m, d // heads, count=heads, a=query, w=key, result=scores),
        vector("softmax", "softmax", (scores,), (weights,)),
        gemm(
            "context",
            m,
            d // heads,
            m,
            count=heads,
            a=weights,
            w=value,
            result=context,
            a_number="u8",
        ),
    ]
    codes, scales, op = quantised("context", context, width=d)
    y, ops = linear("out", codes, scales, d)
    total = tensor("sum", "activation", (m, d), 32)
    middle = tensor("norm", "activation", (m, d), 32)
    items += [op, *ops, vector("residual", "add", (y, x), (total,))]
    items.append(vector("norm", "layer_norm", (total,), (middle,)))
    codes, scales, op = quantised("middle", middle)
    y, ops = linear("up", codes, scales, hidden)
    gelu = tensor("gelu", "activation", (m, hidden), 32)
    items += [op, *ops, vector("gelu", "gelu", (y,), (gelu,))]
    codes, scales, op = quantised("gelu", gelu)
    y, ops = linear("down", codes, scales, d)
    total, last = tensor("sum2", "activation", (m, d), 32), tensor("last", "output", (m, d), 32)
    items += [op, *ops, vector("residual2", "add", (y, middle), (total,))]
    items.append(vector("norm2", "layer_norm", (total,), (last,)))
    return Workload("layer", tuple(items))


def on(cores):
    chip = load_chip(
        configs_root() / "hardware" / "tpuv4i_4x128.yaml",
        assignments=[f"cores.count={cores.count}", f"cores.split={cores.split}"],
    )
    return chip.architecture, {"technology": chip.technology, "energy": chip.energy}


def row(cores, stats, alone):
    waiting = stats.cycles.stalls / stats.cycles.total
    cells = (
        str(cores.count),
        cores.split if cores.count > 1 else "",
        str(stats.cycles.total),
        f"{speed_up(alone, stats):.2f}",
        f"{efficiency(alone, stats):.0%}",
        f"{waiting:.0%}",
        f"{stats.traffic.dram / 1e6:.1f}",
        f"{1e3 * stats.energy_j:.2f}",
    )
    return f"| {' | '.join(cells)} |"


@pytest.fixture(scope="module")
def rows():
    work = encoder_layer()
    one, parts = on(Cores())
    alone = simulate(work, one, **parts)
    found = [row(Cores(), alone, alone)]
    for split in ("columns", "heads"):
        for count in (2, 4):
            chip, parts = on(Cores(count, split))
            found.append(row(chip.cores, simulate(work, chip, **parts), alone))
    chip, parts = on(Cores(4, "utterances"))
    batch = simulate_batch([[work]] * 4, chip, **parts).whole
    found.append(row(chip.cores, batch, combine([alone] * 4, name="four")))
    return found


def test_its_table_is_what_the_model_says(rows):
    lines = TEXT.splitlines()
    at = lines.index(HEADER) + 2
    assert lines[at : at + len(rows)] == rows


def test_its_chip_file_is_read():
    text = re.search(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[1]
    found = parse(yaml.safe_load(text)["cores"], Cores, source="page")
    assert found == Cores(4, "heads")


def test_it_names_every_way_to_split():
    assert all(f"`{split}`" in TEXT for split in get_args(Split))
