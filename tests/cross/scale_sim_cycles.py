"""Compare stall-free cycles with SCALE-Sim 3.0.0's on layers of wav2vec2-base and prime shapes.

Not part of the suite, see README.md here. SCALE-Sim walks every cycle, so that the whole table
takes about two minutes of processor time. It reports one cycle less than the serial schedule takes;
the exit status is 1 when any other difference shows up.
"""

# ruff: noqa: T201  (a script prints)

import contextlib
import io
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from scalesim.scale_sim import scalesim
from wav2vec2_gemms import LAYERS

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
CONFIG = """\
[general]
run_name = run
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = 4096
FilterSramSzkB = 4096
OfmapSramSzkB = 4096
IfmapOffset = 0
FilterOffset = 100000000
OfmapOffset = 200000000
Bandwidth = 32
Dataflow = {flow}
ReadRequestBuffer = 512
WriteRequestBuffer = 512
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
SparseRep = ellpack_block
OptimizedMapping = false
BlockSize = 8
RandomNumberGeneratorSeed = 40
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
"""


def scale_sim(shape, rows, columns, flow):
    """Return compute cycles (total less stall) of one GEMM in SCALE-Sim."""
    m, n, k = shape
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, topology, layout = (folder / part for part in ("c.cfg", "t.csv", "l.csv"))
        config.write_text(CONFIG.format(rows=rows, columns=columns, flow=flow))
        topology.write_text(f"Layer,M,N,K,Sparsity,\ngemm,{m},{n},{k},1:1,\n")
        layout.write_text("Layer,\ngemm," + "1," * 20 + "\n")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run = scalesim(
                save_disk_space=True,
                verbose=False,
                config=str(config),
                topology=str(topology),
                layout=str(layout),
                input_type_gemm=True,
            )
            run.run_scale(top_path=str(folder))
        layer = run.runner.single_layer_sim_object_list[0]
        _, total, stall, *_ = layer.get_compute_report_items()
    return int(total) - int(stall)


def main():
    different = 0
    print("gemm m n k | array | flow | SCALE-Sim | scale_sim here | serial | CPU s")
    for group, name, rows, columns, flow in CASES:
        shape = LAYERS[name][0] if group == "wav2vec2" else PRIMES[name]
        start = time.process_time()
        theirs = scale_sim(shape, rows, columns, flow)
        spent = time.process_time() - start
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
