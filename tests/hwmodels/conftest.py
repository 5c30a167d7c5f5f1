"""Chips, memories and workloads that the tests of this package share."""

from dataclasses import replace
from pathlib import Path

import pytest
from hw_samples import figure, with_roofline

from cosim import config
from cosim.energy_tables import load_table
from hwmodels.architecture import (
    Architecture,
    Buffer,
    Buffers,
    Cores,
    MemoryStack,
    MemoryTechnology,
    ProcessingArray,
    VectorUnit,
)
from hwmodels.energy import EnergyTable, SramPoint

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def make_chip():
    """Return a function that builds a small chip; 1 GHz clocks unless told."""

    def make(
        rows=2,
        columns=2,
        schedule="serial",
        *,
        dataflow="weight_stationary",
        drain="shift_out",
        lanes=2,
        size=4096,
        weight_size=None,
        output_size=None,
        port=None,
        clock_hz=1e9,
        vector_clock_hz=1e9,
        supports=("i8xi8",),
        fallback=False,
        channels=1,
        arbitration="fifo",
    ):
        return Architecture(
            "tiny",
            ProcessingArray(
                rows, columns, clock_hz, dataflow, schedule=schedule, drain=drain, supports=supports
            ),
            VectorUnit(lanes, vector_clock_hz, fallback),
            Buffers(
                Buffer(size, port),
                Buffer(weight_size or size, port),
                Buffer(output_size or size, port),
            ),
            MemoryStack("test", channels, arbitration=arbitration),
        )

    return make


@pytest.fixture
def make_memory():
    """Return a function that builds a memory: 1 channel, 8 bytes/ns, 10 ns unless told."""

    def make(channels=1, *, bandwidth=8e9, latency=10e-9, burst=1, interleave=64, capacity=1 << 20):
        return MemoryTechnology(
            "test",
            channels,
            capacity,
            burst,
            interleave,
            "assumed for a test",
            figure(1e9),
            None if bandwidth is None else figure(bandwidth),
            figure(1.0),
            figure(latency),
            figure(2e-12, 1e-12, 4e-12),
            figure(3e-12, 1e-12, 4e-12),
            figure(1e-3),
        )

    return make


@pytest.fixture
def table():
    """Return an energy table with round numbers."""
    return EnergyTable(
        "round",
        28e-9,
        {
            "mac_i8xi8": figure(1e-12, 5e-13, 2e-12),
            "vector_mac": figure(4e-12),
            "vector_op": figure(2e-12),
            "quantize_op": figure(2e-12),
            **{name: figure(0.0) for name in ("register_bit", "clock_bit", "accumulate")},
            "host_op": figure(0.0),
        },
        (
            SramPoint(64, figure(0.25e-12), figure(0.5e-12)),
            SramPoint(1024, figure(1e-12), figure(2e-12)),
            SramPoint(16384, figure(4e-12), figure(8e-12)),
            SramPoint(1 << 26, figure(256e-12), figure(512e-12)),
        ),
        figure(1e-9),
        figure(1e-6),
        figure(1e-5),
    )


@pytest.fixture(scope="session")
def shipped():
    """Return a function that loads one core of a shipped chip: architecture, memory and energy."""

    def load(name):
        architecture = config.load(CONFIGS / "hardware" / f"{name}.yaml", Architecture)
        memory = CONFIGS.parent / architecture.memory.technology
        energy = CONFIGS / "energy" / "aladdin_cacti_28nm.yaml"
        # The rules of tests are those of one core, with a memory that follows from its figures.
        one_core = with_roofline(replace(architecture, cores=Cores()))
        return one_core, config.load(memory, MemoryTechnology), load_table(energy)

    return load


@pytest.fixture
def ideal(make_memory):
    """Return a memory without latency or limit."""
    memory = make_memory(bandwidth=None, latency=0.0, interleave=1, capacity=1 << 40)
    return replace(memory, name="ideal")
