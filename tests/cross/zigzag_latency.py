"""Compare latency and memory traffic of our mapper with ZigZag 3.9.1's on wav2vec2-base.

Not part of the suite, see README.md here. Both get the same array, buffers and ports, and one port
to memory, 32 bytes per cycle, that reads and writes share; both start with empty buffers and end
when the last result is in memory. ZigZag leaves out how an array fills and drains, so that latency
here must be at most its own plus fill and drain of our tiling; bytes must not be more outright.
Where ZigZag takes fewer cycles than its bytes need at the port, those of the bytes count. Its loops
have fractional lengths, so that its bytes may be some millionths off, even below compulsory ones.

    COSIM_ZIGZAG_PYTHON=PYTHON PYTHONPATH=.:tests python tests/cross/zigzag_latency.py
        [--array 32] [--dataflow weight_stationary] [--layers conv0,qk] [--lpf-limit 6]
        [--objective soonest]
"""

# ruff: noqa: T201  (a script prints)

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from wav2vec2_gemms import LAYERS

from cosim.bench.simulator_peers import SIMULATORS, started
from cosim.bench.simulators import (
    PORT_BYTES,
    compared_chip,
    job,
    layer_workload,
    port_memory,
)
from cosim.energy_tables import load_table
from hwmodels.simulate import simulate

ROOT = Path(__file__).resolve().parents[2]
FLOWS = ("weight_stationary", "output_stationary", "input_stationary")
FRACTIONS = 5e-5


def zigzag(names, size, dataflow, lpf_limit):
    """Yield what ZigZag finds for each layer."""
    (simulator,) = (one for one in SIMULATORS if one.name == "zigzag")
    with started(simulator) as (worker, _):
        for name in names:
            asked = job(name, *LAYERS[name][0], size=size, dataflow=dataflow)
            yield worker.ask(asked | {"lpf_limit": lpf_limit})


def main():
    parser = argparse.ArgumentParser(description="Compare our mapper with ZigZag's.")
    parser.add_argument("--array", type=int, default=32, help="Rows and columns.")
    parser.add_argument("--dataflow", choices=FLOWS, default=FLOWS[0])
    parser.add_argument("--layers", default=",".join(LAYERS), help="Names, with commas.")
    parser.add_argument("--lpf-limit", type=int, default=6, help="How far ZigZag's search goes.")
    parser.add_argument("--objective", choices=("soonest", "latency"), default="soonest")
    options = parser.parse_args()
    names = options.layers.split(",")
    architecture = compared_chip(options.array, options.dataflow)
    choice = replace(architecture.mapping, objective=options.objective)
    architecture = replace(architecture, mapping=choice)
    energy = load_table(ROOT / "configs" / "energy" / "aladdin_cacti_28nm.yaml")
    print(f"{options.array}x{options.array} {options.dataflow} {options.objective}")
    print(
        "layer | ZigZag cycles | ours | fill+drain | left | ZigZag bytes | ours | compulsory "
        "| tiling | our CPU s"
    )
    worse = 0
    found = zigzag(names, options.array, options.dataflow, options.lpf_limit)
    for theirs in found:
        work = layer_workload(theirs["name"], *LAYERS[theirs["name"]][0])
        start = time.process_time()
        stats = simulate(work, architecture, technology=port_memory(), energy=energy)
        spent = time.process_time() - start
        cycles, moved = stats.cycles, stats.traffic.dram
        hidden = cycles.weight_load + cycles.fill + cycles.drain
        needed = max(theirs["cycles"], -(-theirs["dram_bytes"] // PORT_BYTES))
        left = needed + hidden - cycles.total
        is_worse = left < 0 or moved > theirs["dram_bytes"] * (1 + FRACTIONS) + 1
        worse += is_worse
        compulsory = sum(ref.size_bytes for ref in work.tensors())
        print(
            f"{theirs['name']} | {theirs['cycles']:.0f} | {cycles.total} | {hidden} | {left:.0f} | "
            f"{theirs['dram_bytes']:.0f} | {moved} | {compulsory} | {stats.layers[0].mapping} | "
            f"{spent:.2f}{'  WORSE' if is_worse else ''}",
            flush=True,
        )
    print(f"{len(names)} layers, {worse} where ours is worse")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
