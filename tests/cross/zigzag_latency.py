"""Compare latency and memory traffic of our mapper with ZigZag 3.9.1's on wav2vec2-base.

Not part of the suite, see README.md here. Both get the same array, buffers and ports, and one port
to memory, 32 bytes per cycle, that reads and writes share; both start with empty buffers and end
when the last result is in memory. ZigZag leaves out how an array fills and drains, so that latency
here must be at most its own plus fill and drain of our tiling; bytes must not be more outright.
Where ZigZag takes fewer cycles than its bytes need at the port, those of the bytes count.

    PYTHONPATH=.:tests python tests/cross/zigzag_latency.py --zigzag ZIGZAG_PYTHON [--array 32]
        [--dataflow weight_stationary] [--layers conv0,qk] [--lpf-limit 6]
"""

# ruff: noqa: T201  (a script prints)

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from wav2vec2_gemms import LAYERS

from cosim import config
from hwmodels.architecture import (
    Architecture,
    Buffer,
    Buffers,
    Figure,
    MappingChoice,
    MemoryStack,
    MemoryTechnology,
    ProcessingArray,
    VectorUnit,
)
from hwmodels.energy import EnergyTable
from hwmodels.simulate import simulate
from hwmodels.workload import Gemm, TensorRef, Workload

ROOT = Path(__file__).resolve().parents[2]
FLOWS = ("weight_stationary", "output_stationary", "input_stationary")
SIZES = {"input": 262144, "weight": 262144, "output": 131072}
PORT_BYTES = 32


def chip(size, dataflow):
    """Return an array of size x size cells at 1 GHz with the buffers and ports compared.

    Operand buffers stream as a whole: nothing stays from layer to layer on either side.
    """
    buffers = Buffers(**{name: Buffer(have, PORT_BYTES) for name, have in SIZES.items()})
    array = ProcessingArray(size, size, 1e9, dataflow=dataflow, schedule="double_buffered")
    return Architecture(
        "compared",
        array,
        VectorUnit(size, 1e9),
        buffers,
        MemoryStack("port", 1),
        MappingChoice("latency", resident_share=0.0),
    )


def port():
    """Return a memory that is nothing but a port of 32 bytes per cycle."""

    def assumed(value):
        return Figure(value, "assumed: the port of the comparison")

    ideal = config.load(ROOT / "configs" / "memory" / "ideal.yaml", MemoryTechnology)
    return replace(ideal, name="port", peak_bytes_per_s=assumed(PORT_BYTES * 1e9))


def workload(name):
    """Return one layer with activations as im2col lays them out and results of 8 bits."""
    m, n, k = LAYERS[name][0]
    a = TensorRef("a", "input", (m, k), 8 * m * k)
    w = TensorRef("w", "constant", (n, k), 8 * n * k)
    result = TensorRef("y", "output", (m, n), 8 * m * n)
    return Workload(name, (Gemm(name, "gemm", m, n, k, a, w, result, "i8", "i8", "i32"),))


def zigzag(python, names, size, dataflow, lpf_limit):
    """Yield what ZigZag finds for each layer."""
    jobs = []
    for name in names:
        m, n, k = LAYERS[name][0]
        job = {"name": name, "m": m, "n": n, "k": k, "size": size, "dataflow": dataflow}
        jobs.append({**job, "buffers": SIZES, "port_bytes": PORT_BYTES, "lpf_limit": lpf_limit})
    worker = Path(__file__).with_name("zigzag_worker.py")
    with subprocess.Popen(
        [python, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write("".join(json.dumps(job) + "\n" for job in jobs))
        process.stdin.close()
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise SystemExit(f"{python}: ZigZag ended with {process.returncode}")


def main():
    parser = argparse.ArgumentParser(description="Compare our mapper with ZigZag's.")
    parser.add_argument("--zigzag", required=True, help="Python of ZigZag's environment.")
    parser.add_argument("--array", type=int, default=32, help="Rows and columns.")
    parser.add_argument("--dataflow", choices=FLOWS, default=FLOWS[0])
    parser.add_argument("--layers", default=",".join(LAYERS), help="Names, with commas.")
    parser.add_argument("--lpf-limit", type=int, default=6, help="How far ZigZag's search goes.")
    options = parser.parse_args()
    names = options.layers.split(",")
    architecture = chip(options.array, options.dataflow)
    energy = config.load(ROOT / "configs" / "energy" / "aladdin_cacti_28nm.yaml", EnergyTable)
    print(f"{options.array}x{options.array} {options.dataflow}")
    print(
        "layer | ZigZag cycles | ours | fill+drain | left | ZigZag bytes | ours | compulsory "
        "| tiling | our CPU s"
    )
    worse = 0
    found = zigzag(options.zigzag, names, options.array, options.dataflow, options.lpf_limit)
    for theirs in found:
        work = workload(theirs["name"])
        start = time.process_time()
        stats = simulate(work, architecture, technology=port(), energy=energy)
        spent = time.process_time() - start
        cycles, moved = stats.cycles, stats.traffic.dram
        hidden = cycles.fill + cycles.drain
        needed = max(theirs["cycles"], -(-theirs["dram_bytes"] // PORT_BYTES))
        left = needed + hidden - cycles.total
        is_worse = left < 0 or moved > theirs["dram_bytes"] + 1  # of a byte ZigZag moves parts
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
