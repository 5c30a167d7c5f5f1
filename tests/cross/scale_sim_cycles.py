"""Compare stall-free cycles with SCALE-Sim 3.0.0's on layers of wav2vec2-base and prime shapes.

Not part of the suite, see README.md here. SCALE-Sim walks every cycle, so that the whole table
takes about two minutes of processor time. It reports one cycle less than the serial schedule takes;
the exit status is 1 when any other difference shows up.
"""

# ruff: noqa: T201  (a script prints)

import sys
from itertools import product

from wav2vec2_gemms import LAYERS

from cosim.bench.simulator_peers import SIMULATORS, started
from hwmodels.array import closed_form
from hwmodels.conventions import cycles_by

FLOWS = {"ws": "weight_stationary", "os": "output_stationary", "is": "input_stationary"}
PRIMES = {"tall": (97, 13, 31), "wide": (11, 101, 17), "deep": (7, 5, 211), "row": (1, 37, 29)}
CASES = [
    *(("wav2vec2", name, 128, 128, flow) for name, flow in product(("qk", "av", "ctc"), FLOWS)),
    *(("wav2vec2", "qk", 32, 32, flow) for flow in FLOWS),
    ("primes", "tall", 16, 8, "ws"),
    ("primes", "tall", 8, 16, "os"),
    ("primes", "wide", 5, 3, "is"),
    ("primes", "wide", 16, 16, "ws"),
    ("primes", "deep", 3, 7, "os"),
    ("primes", "deep", 16, 16, "is"),
    ("primes", "row", 8, 8, "ws"),
    ("primes", "row", 13, 4, "is"),
]


def scale_sim(worker, shape, rows, columns, flow):
    """Return compute cycles (total less stall) of one GEMM in SCALE-Sim, and its CPU seconds."""
    sizes = dict(zip("mnk", shape, strict=True))
    found = worker.ask({**sizes, "rows": rows, "columns": columns, "dataflow": FLOWS[flow]})
    return found["cycles"] - found["stall_cycles"], found["cpu_seconds"]


def main():
    (simulator,) = (one for one in SIMULATORS if one.name == "scale_sim")
    with started(simulator) as (worker, version):
        return compare(worker, version)


def compare(worker, version):
    different = 0
    print(f"gemm m n k | array | flow | SCALE-Sim {version} | scale_sim here | serial | CPU s")
    for group, name, rows, columns, flow in CASES:
        shape = LAYERS[name][0] if group == "wav2vec2" else PRIMES[name]
        theirs, spent = scale_sim(worker, shape, rows, columns, flow)
        sizes = {**dict(zip("mnk", shape, strict=True)), "rows": rows, "columns": columns}
        named = cycles_by("scale_sim", FLOWS[flow], **sizes)
        serial = closed_form("serial", **sizes, dataflow=FLOWS[flow], drain="none")
        is_equal = theirs == named == serial - 1
        different += not is_equal
        print(
            f"{name} {' '.join(map(str, shape))} | {rows}x{columns} | {flow} | {theirs} | {named} "
            f"| {serial} | {spent:.1f}{'' if is_equal else '  DIFFERENT'}",
            flush=True,
        )
    print(f"{len(CASES)} cases, {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
