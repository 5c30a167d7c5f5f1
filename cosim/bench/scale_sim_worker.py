"""Walk one GEMM after the other with SCALE-Sim 3.0.0; jobs come in, results go out as JSON lines.

Runs in SCALE-Sim's own environment, started by `cosim.bench.simulator_worker`, and imports nothing
of ours. Its buffers are ideal where a job names none: then total less stall are the cycles that the
array computes. The package fails with numpy 2; it wants a layout file even where layouts are off.
"""

import contextlib
import importlib
import io
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DISTRIBUTION = "scalesim"
FLOWS = {"weight_stationary": "ws", "output_stationary": "os", "input_stationary": "is"}
AMPLE = {"input": 4096 << 10, "weight": 4096 << 10, "output": 4096 << 10}
CONFIG = """\
[general]
run_name = run
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = {input}
FilterSramSzkB = {weight}
OfmapSramSzkB = {output}
IfmapOffset = 0
FilterOffset = 100000000
OfmapOffset = 200000000
Bandwidth = {port}
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
InterfaceBandwidth = {interface}
UseRamulatorTrace = False
"""


def evaluate(job: Mapping[str, Any]) -> dict[str, object]:
    """Return the cycles of one GEMM of bytes, those of its stalls, and the CPU seconds they took.

    `rows`, `columns`, `m`, `n`, `k` and `dataflow` are needed. `buffers` (bytes) and `port_bytes`
    per cycle come together; without them nothing stalls.
    """
    scalesim = importlib.import_module("scalesim.scale_sim").scalesim
    buffers = job.get("buffers", AMPLE)
    text = CONFIG.format(
        rows=job["rows"],
        columns=job["columns"],
        flow=FLOWS[job["dataflow"]],
        port=job.get("port_bytes", 32),
        interface="USER" if "buffers" in job else "CALC",
        **{name: size >> 10 for name, size in buffers.items()},
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, topology, layout = (folder / part for part in ("c.cfg", "t.csv", "l.csv"))
        config.write_text(text)
        topology.write_text(f"Layer,M,N,K,Sparsity,\ngemm,{job['m']},{job['n']},{job['k']},1:1,\n")
        layout.write_text("Layer,\ngemm," + "1," * 20 + "\n")
        started = time.process_time()
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
        spent = time.process_time() - started
        layer = run.runner.single_layer_sim_object_list[0]
        _, total, stall, *_ = layer.get_compute_report_items()
    return {"cycles": int(total), "stall_cycles": int(stall), "cpu_seconds": spent}
