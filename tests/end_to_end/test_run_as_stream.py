"""What `cosim run` writes is what `cosim stream` reads."""

import json
import math

import pytest

pytestmark = pytest.mark.slow


def test_a_stream_of_a_run_takes_its_cycles_and_joules(shared_workspace):
    out = shared_workspace.root / "out"
    made = shared_workspace.invoke("run", shared_workspace.experiment, "--out", out)
    assert made.exit_code == 0, made.output
    totals = json.loads((out / "run.json").read_text())["totals"]
    result = shared_workspace.invoke("stream", out, "--arrivals", "batch", "--json")
    assert result.exit_code == 0, result.output
    total = json.loads(result.output)["total"]
    assert math.isclose(total["busy_s"], totals["seconds"], rel_tol=1e-12)
    assert math.isclose(total["energy_j"], totals["energy_j"], rel_tol=1e-9)
    assert total["idle_energy_j"] == 0
    # a chip that is idle as long as it worked pays the static part of the run once more
    result = shared_workspace.invoke(
        *("stream", out, "--arrivals", "batch", "--chips", "4", "--json")
    )
    total = json.loads(result.output)["total"]
    static_j = sum(
        row["energy_j"]
        for row in totals["energy_rows"]
        if row["action"] in {"leakage", "background"}
    )
    if "memory" in totals:  # behind a controller
        static_j += totals["memory"]["rest_w"]["value"] * totals["seconds"]
    share = total["idle_s"] / totals["seconds"]
    assert share > 0
    assert math.isclose(total["idle_energy_j"], static_j * share, rel_tol=1e-9)
