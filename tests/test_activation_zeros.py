"""Zeros of activations: counted in what runs, energy saved by what was counted, no cycle."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from drafts import Draft, heard

from cosim.cli import main
from cosim.execute import ZeroCounts, plan
from cosim.schedule import schedule
from hwmodels.workload import Gemm
from kernels import reference

ROOT = Path(__file__).resolve().parents[1]
CHIP = ROOT / "configs" / "hardware" / "stacked_edge_32.yaml"
GATED = ("--set", "array.gating=activations")


def counted(draft, *outputs, bindings=None):
    """Run a graph twice on drawn inputs; returns its weights, what was counted, and the inputs."""
    counts, weights = ZeroCounts(), draft.weights(*outputs)
    graph = weights.program.graph("encoder")
    made = plan(weights, "encoder", bindings=bindings or {}, counts=counts)
    given = [draft.operands(graph, bindings or {}) for _ in range(2)]
    for inputs in given:
        heard(made, inputs)
    return weights, counts.densities(), given


def test_zeros_behind_a_relu_are_counted_as_they_are_and_reach_the_work():
    d = Draft()
    x = d.input(1, 7, 20)
    y = d.add("linear", d.add("relu", x), d.constant(9, 20))
    weights, found, given = counted(d, y)
    shares = [np.mean(inputs["in0"] > 0) for inputs in given]
    assert found == {f"encoder/{y[1:]}": pytest.approx(np.mean(shares))}
    work = schedule(weights.program, "encoder", bindings={}, densities=found)
    (gemm,) = [item for item in work.items if isinstance(item, Gemm)]
    assert gemm.a_density == pytest.approx(np.mean(shares))
    bare = schedule(weights.program, "encoder", bindings={})
    assert [item.a_density for item in bare.items if isinstance(item, Gemm)] == [None]


def test_probabilities_that_round_to_zero_are_counted():
    d = Draft()
    heads, queries, keys, depth = 2, 33, 40, 8
    operands = []
    for rows, per in ((queries, "row"), (keys, "row"), (keys, "tensor")):
        x = d.add("affine", d.input(1, heads, rows, depth), scale=4.0, shift=0.0)
        codes = d.add("dynamic_quantize", x, results=2, per=per, bits=8)
        operands += [codes, codes[:-1] + "1"]
    y = d.add("quantized_attention", *operands, scale=1.0)
    weights, found, given = counted(d, y)
    wanted = []
    for inputs in given:
        q, k = (4.0 * inputs[name][0] for name in ("in0", "in1"))
        (qc, qs), (kc, ks) = (
            reference.quantize_rows(x.reshape(-1, depth), np.abs(x).max(axis=2).reshape(-1))
            for x in (q.astype(np.float32), k.astype(np.float32))
        )
        shape = (heads, -1, depth)
        part = slice(None, None, 16)
        codes = reference.probability_codes(
            qc.reshape(shape)[:, part],
            qs.reshape(heads, -1)[:, part],
            kc.reshape(shape),
            ks.reshape(heads, -1),
            1.0,
        )
        wanted.append(np.mean(codes > 0))
    key = f"encoder/{y[1:]}"
    assert found[f"{key}.context"] == pytest.approx(np.mean(wanted), abs=0.02)
    assert 0.02 < found[f"{key}.context"] < 0.6
    assert 0.9 < found[f"{key}.scores"] <= 1
    work = schedule(weights.program, "encoder", bindings={}, densities=found)
    densities = [item.a_density for item in work.items if isinstance(item, Gemm)]
    assert densities == [found[f"{key}.scores"], found[f"{key}.context"]]


@pytest.fixture
def simulate(tmp_path):
    """Return a function that simulates a list of two products with options."""
    path = tmp_path / "layers.csv"
    path.write_text(
        "name,m,n,k,count,a_number,w_number,density,a_density\n"
        "sparse,64,64,64,1,i8,i8,,0.25\n"
        "unknown,64,64,64,1,i8,i8,,\n"
    )

    def run(*options):
        found = CliRunner().invoke(
            main,
            ["simulate", str(path), "--hardware", str(CHIP), "--json", *options],
            catch_exceptions=False,
        )
        assert found.exit_code == 0, found.output
        document = json.loads(found.stdout)
        return document["rows"], document["total"]

    return run


def test_gating_saves_energy_and_no_cycle_where_zeros_are_known(simulate):
    plain, gated = simulate(), simulate(*GATED)
    assert plain[1]["cycles"] == gated[1]["cycles"]
    assert plain[1]["energy_j"] > gated[1]["energy_j"]
    counts = [
        {row["action"]: row["count"] for row in layer["energy"] if row["component"] == "array"}
        for layer in gated[0]
    ]
    macs = 64**3
    assert counts[0]["mac_i8xi8"] == macs // 4
    assert counts[0]["gated_mac"] == 3 * macs // 4
    assert counts[1]["mac_i8xi8"] == macs
    assert "gated_mac" not in counts[1]
    prices = {row["action"]: row for layer in gated[0] for row in layer["energy"]}
    saved = prices["mac_i8xi8"]["energy_per_action_j"] - prices["gated_mac"]["energy_per_action_j"]
    assert plain[1]["energy_j"] - gated[1]["energy_j"] == pytest.approx(0.75 * macs * saved)


def test_what_was_not_measured_is_said(simulate):
    text = "array.gating: zeros of activations not measured for 1 of 2 products (unknown, ...)"
    assert any(text in line for line in simulate(*GATED)[1]["warnings"])
    assert not any("gating" in line for line in simulate()[1]["warnings"])
