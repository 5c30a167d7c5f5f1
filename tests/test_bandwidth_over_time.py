"""cosim simulate --bandwidth: what each channel moved when, under every memory model."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cosim.cli import main
from hwmodels.bandwidth import Move, Watch

ROOT = Path(__file__).resolve().parents[1]
CHIP = ROOT / "configs" / "hardware" / "stacked_edge_32.yaml"
TIMING = "memory.timing=configs/memory/timing/hbm2_2000.yaml"


@pytest.mark.parametrize("fidelity", ["roofline", "exact", "sampled"])
def test_all_bytes_are_somewhere_and_no_channel_is_faster_than_it_can_be(tmp_path, fidelity):
    path, out = tmp_path / "layers.csv", tmp_path / "bandwidth.csv"
    path.write_text("m,n,k,bits\n8,512,2048,8\n64,256,256,8\n")
    options = ("--set", f"memory.fidelity={fidelity}", "--set", TIMING)
    found = CliRunner().invoke(
        main,
        [
            *("simulate", str(path), "--hardware", str(CHIP), "--json"),
            *("--bandwidth", str(out), *options),
        ],
        catch_exceptions=False,
    )
    assert found.exit_code == 0, found.output
    total = json.loads(found.stdout)["total"]
    rows = list(csv.DictReader(out.open()))
    assert {int(row["channel"]) for row in rows} == set(range(8))
    moved = sum(
        float(row["seconds"]) * (float(row["read_bytes_per_s"]) + float(row["write_bytes_per_s"]))
        for row in rows
    )
    assert moved == pytest.approx(total["dram_bytes"], rel=0.01)  # whole bursts
    rates = [float(row["read_bytes_per_s"]) for row in rows]
    assert max(rates) < 1.3 * 32e9  # shares are even over a transfer that takes less than a bin
    assert np.mean(rates) == pytest.approx(
        sum(one["read_bytes"] for one in total.get("memory", {}).get("requesters", {}).values())
        / total["seconds"]
        / 8
        if "memory" in total
        else np.mean(rates),
        rel=0.1,
    )


def test_bins_hold_what_lies_in_them():
    watch = Watch([Move(0, 4_000_000, (0, 1), (300.0, 100.0), False)], passed_fs=10_000_000)
    watch.moves.append(Move(3_000_000, 5_000_000, (1,), (40.0,), True))
    seconds, found = watch.bins()
    assert seconds == 1e-9
    assert found.shape == (10, 2, 2)
    np.testing.assert_allclose(found[:4, 0, 0], 75.0)
    np.testing.assert_allclose(found[:4, 1, 0], 25.0)
    np.testing.assert_allclose(found[:, 1, 1], [0, 0, 0, 20.0, 20.0, 0, 0, 0, 0, 0])
    assert found.sum() == pytest.approx(440)


def test_a_long_run_has_few_bins():
    watch = Watch([Move(0, 10**15, (0,), (1e9,), False)], passed_fs=10**15)
    seconds, found = watch.bins()
    assert seconds == 1e-3
    assert len(found) == 1000
    assert found.sum() == pytest.approx(1e9)
