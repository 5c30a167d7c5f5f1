"""Map one GEMM after the other with ZigZag 3.9.1; shapes come in and results go out as JSON lines.

Runs in ZigZag's own environment, started by `cosim.bench.simulator_worker`, and imports nothing of
ours. The chip it describes is that of `cosim.bench.simulators`: registers for what stays in the
cells, three buffers whose sides towards the array are as wide as it, and one port to memory that
reads and writes share. The package does not say that it needs `six`.
"""

import contextlib
import importlib
import io
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Job = Mapping[str, Any]
DISTRIBUTION = "zigzag-dse"
BITS = {"I1": 8, "I2": 8, "O": 32}
STAYS = {"weight_stationary": "I2", "output_stationary": "O", "input_stationary": "I1"}
# Dimensions of O[d0][d1] += I[d0][d2] * W[d2][d1] along the two sides of the array.
SPATIAL = {
    "weight_stationary": ("D2", "D1"),
    "output_stationary": ("D0", "D1"),
    "input_stationary": ("D2", "D0"),
}
ENERGY = {"unit": 0.2, "sram": 0.6, "dram": 40.0}  # pJ, pJ/B, pJ/B: latency alone is asked for


def memory(
    operand: str,
    size_bits: int,
    *,
    array_bits: int,
    outer_bits: int,
    serves: Sequence[str],
    cost: float,
) -> dict[str, object]:
    """Return a memory of one operand with a port each way on each side."""
    if operand == "O":
        ways = [
            ("read", array_bits, "tl"),
            ("read", outer_bits, "th"),
            ("write", outer_bits, "fh"),
            ("write", array_bits, "fl"),
        ]
    else:
        ways = [("read", array_bits, "tl"), ("write", outer_bits, "fh")]
    count = {"read": 0, "write": 0}
    ports = []
    for kind, bits, way in ways:
        count[kind] += 1
        ports.append(
            {
                "name": f"{kind[0]}_port_{count[kind]}",
                "type": kind,
                "bandwidth_min": min(bits, BITS[operand]),
                "bandwidth_max": bits,
                "allocation": [f"{operand}, {way}"],
            }
        )
    return {
        "size": size_bits,
        "r_cost": cost,
        "w_cost": cost,
        "area": 0,
        "latency": 1,
        "operands": [operand],
        "ports": ports,
        "served_dimensions": serves,
    }


def accelerator(job: Job) -> dict[str, object]:
    """Return the chip as ZigZag's YAML has it."""
    size, port = job["size"], 8 * job["port_bytes"]
    stays = STAYS[job["dataflow"]]
    cell = BITS[stays]
    memories = {
        "register": memory(stays, cell, array_bits=cell, outer_bits=cell, serves=[], cost=0.01)
    }
    for operand, name in (("I1", "input"), ("I2", "weight"), ("O", "output")):
        memories[name] = memory(
            operand,
            8 * job["buffers"][name],
            array_bits=size * BITS[operand],
            outer_bits=port,
            serves=["D1", "D2"],
            cost=ENERGY["sram"] * port / 8,
        )
    memories["dram"] = {
        "size": 10**13,
        "r_cost": ENERGY["dram"] * port / 8,
        "w_cost": ENERGY["dram"] * port / 8,
        "area": 0,
        "latency": 1,
        "operands": ["I1", "I2", "O"],
        "ports": [
            {
                "name": "rw_port_1",
                "type": "read_write",
                "bandwidth_min": port,
                "bandwidth_max": port,
                "allocation": [
                    *(f"{operand}, {way}" for operand in ("I1", "I2") for way in ("fh", "tl")),
                    *(f"O, {way}" for way in ("fh", "tl", "fl", "th")),
                ],
            }
        ],
        "served_dimensions": ["D1", "D2"],
    }
    return {
        "name": "array",
        "memories": memories,
        "operational_array": {
            "unit_energy": ENERGY["unit"],
            "unit_area": 1.0,
            "dimensions": ["D1", "D2"],
            "sizes": [size, size],
        },
    }


def layer(job: Job) -> dict[str, object]:
    """Return one GEMM as ZigZag's YAML has it: sums of 32 bits, results of 8."""
    return {
        "id": 0,
        "name": job["name"],
        "operator_type": "Gemm",
        "equation": "O[d0][d1]+=I[d0][d2]*W[d2][d1]",
        "dimension_relations": [],
        "loop_dims": ["D0", "D1", "D2"],
        "loop_sizes": [job["m"], job["n"], job["k"]],
        "operand_precision": {"O": 32, "O_final": 8, "W": 8, "I": 8},
        "operand_source": {"W": 0, "I": 0},
    }


def mapping(job: Job) -> dict[str, object]:
    """Return what is unrolled over the array."""
    first, second = SPATIAL[job["dataflow"]]
    return {
        "name": "default",
        "spatial_mapping": {
            "D1": [f"{first}, {job['size']}"],
            "D2": [f"{second}, {job['size']}"],
        },
        "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
    }


def dram_bytes(evaluation: Any) -> float:
    """Return the bytes that pass between memory and the buffers."""
    operand_type = importlib.import_module("zigzag.datatypes").LayerOperand
    movement = importlib.import_module("zigzag.mapping.data_movement").DataMoveAttr
    bits = 0
    for name in ("I", "W", "O"):
        level = evaluation.mapping.unit_mem_data_movement[operand_type(name)][-1]
        amount = level.get_attribute(movement.DATA_TRANS_AMOUNT_PER_PERIOD)
        times = level.get_attribute(movement.DATA_TRANS_PERIOD_COUNT)
        width = level.get_attribute(movement.DATA_PRECISION)
        bits += sum(amount.get(way) * times.get(way) * width.get(way) for way in amount.data)
    return float(bits / 8)


def evaluate(job: Job) -> dict[str, object]:
    """Return the latency that ZigZag finds least, in cycles, its bytes, and the CPU seconds."""
    search = importlib.import_module("zigzag.api").get_hardware_performance_zigzag
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = {"chip": accelerator(job), "mapping": [mapping(job)], "work": [layer(job)]}
        for part, data in texts.items():
            (folder / f"{part}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        started = time.process_time()
        logging.disable(logging.CRITICAL)
        with contextlib.redirect_stdout(io.StringIO()):
            _, latency, found = search(
                workload=str(folder / "work.yaml"),
                accelerator=str(folder / "chip.yaml"),
                mapping=str(folder / "mapping.yaml"),
                opt="latency",
                dump_folder=str(folder / "out"),
                lpf_limit=job["lpf_limit"],
                loma_show_progress_bar=False,
            )
        spent = time.process_time() - started
    evaluation = found[0][1][0][0]
    return {
        "name": job["name"],
        "cycles": latency,
        "without_loading": evaluation.latency_total0,
        "dram_bytes": dram_bytes(evaluation),
        "cpu_seconds": spent,
    }
