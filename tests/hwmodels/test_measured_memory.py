"""hwmodels.measured_memory: a roofline at shares of its peak comes to what the controller does."""

from dataclasses import replace
from datetime import date

import pytest
import simpy
from hw_samples import gemm

from cosim import config
from cosim.bench.memory_efficiency import efficiency_rows
from cosim.chip import load_chip
from cosim.config import configs_root
from cosim.errors import CosimError
from cosim.simulate import simulate_workloads
from hwmodels.architecture import MemoryStack
from hwmodels.measured_memory import EfficiencyTable, kind_of, measured
from hwmodels.memory import Channels, Descriptor
from hwmodels.workload import Workload

TABLE = configs_root() / "memory" / "efficiency" / "controller.yaml"
CHIP = configs_root() / "hardware" / "stacked_edge_32.yaml"
ROOFLINE = ("memory.fidelity=roofline",)
MEASURED = (*ROOFLINE, f"memory.efficiency={TABLE}")
WIDE = ("buffers.weight.port_bytes=null", "buffers.input.port_bytes=null")


@pytest.fixture(scope="module")
def chip():
    return load_chip(CHIP, assignments=MEASURED)


def ends(chip, descriptors):
    """Return the seconds after which the measured memory is done with each descriptor."""
    env = simpy.Environment()
    channels = Channels(chip.architecture.memory, chip.technology)
    server = chip.measured.serve(env, channels)
    return [server.submit(one).done_fs / 1e15 for one in descriptors]


@pytest.mark.parametrize("is_write", [False, True])
def test_a_stream_takes_its_bytes_at_the_share_of_the_peak_measured(chip, is_write):
    # 1 MiB on all 16 buses of 16 bytes/ns each.
    (end,) = ends(chip, [Descriptor(0, 1 << 20, is_write=is_write)])
    ways = chip.measured.efficiency.stream
    share = ways.write if is_write else ways.read
    expected = (1 << 20) / (256e9 * share) + chip.technology.latency_s.value
    assert end == pytest.approx(expected, rel=1e-6)


def test_a_write_behind_reads_loses_the_time_of_a_turn(chip):
    size = 1 << 20
    read, write, again = ends(
        chip,
        [
            Descriptor(0, size),
            Descriptor(size, size, is_write=True),
            Descriptor(2 * size, size, is_write=True),
        ],
    )
    ways = chip.measured.efficiency.stream
    alone = size / (256e9 * ways.write)
    turn = ways.descriptor_s * (1 / ways.mixed - 0.5 / ways.read - 0.5 / ways.write)
    assert turn > 10e-9
    assert write - read == pytest.approx(alone + turn, rel=1e-6)
    assert again - write == pytest.approx(alone, rel=1e-6)


def test_a_write_after_the_last_read_has_moved_loses_nothing(chip):
    env = simpy.Environment()
    server = chip.measured.serve(env, Channels(chip.architecture.memory, chip.technology))
    env.run(until=server.submit(Descriptor(0, 4096)).wait())
    begun = env.now
    end = server.submit(Descriptor(4096, 1 << 20, is_write=True)).done_fs
    share = chip.measured.efficiency.stream.write
    expected = (1 << 20) / (256e9 * share) + chip.technology.latency_s.value
    assert (end - begun) / 1e15 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("stride", "bursts_apart_s"),
    [
        # Every 4096 bytes the map comes back to one bus of 16, and to the same bank group there:
        # tCCD_L, 4 clocks of 1 ns.
        (4096, 4e-9),
        # Every 512 bytes one bus, its bank groups in turns: tBL, 2 clocks.
        (512, 2e-9),
    ],
)
def test_rows_on_one_bus_take_the_time_of_that_bus_or_bank_group(chip, stride, bursts_apart_s):
    (end,) = ends(chip, [Descriptor(0, 32, stride=stride, rows=1000)])
    share = chip.measured.efficiency.rows_64.read
    expected = bursts_apart_s * 1000 / share + chip.technology.latency_s.value
    assert end == pytest.approx(expected, rel=1e-6)


def test_kinds_are_told_by_the_bytes_of_a_row():
    assert [kind_of(Descriptor(0, size), 32) for size in (4, 32, 64)] == [
        *("random", "random", "stream")
    ]
    sizes = (32, 127, 128, 511, 512, 2047, 2048)
    assert [kind_of(Descriptor(0, size, stride=4096, rows=2), 32) for size in sizes] == [
        *("rows_64", "rows_64", "rows_256", "rows_256", "rows_1024", "rows_1024", "stream")
    ]
    assert kind_of(Descriptor(0, 64, stride=64, rows=9), 32) == "stream"


def test_a_product_bound_by_its_stream_of_weights_takes_the_time_of_the_controller():
    work = [Workload("mv", (gemm("g", 1, 2048, 1024),))]
    large = (*WIDE, "array.rows=256", "array.columns=256", "buffers.weight.size_bytes=1048576")
    large = (*large, "buffers.output.size_bytes=1048576", "memory.thermal=null")
    chips = [
        load_chip(CHIP, assignments=(*settings, *large))
        for settings in (("memory.fidelity=exact",), MEASURED, ROOFLINE)
    ]
    exact, ours, stated = (simulate_workloads(work, one, "mv") for one in chips)
    assert ours.cycles.total == pytest.approx(exact.cycles.total, rel=0.03)
    assert stated.notes == ()
    (note,) = ours.notes
    assert "hbm2_2000 reached under policy ramulator2 with map row bank" in note


def test_the_shipped_table_is_what_the_controller_does():
    table = config.load(TABLE, EfficiencyTable)
    row = next(row for row in table.memories if row.memory == "wide_io2_1066")
    found = efficiency_rows(f"memory/efficiency/{row.memory}/{row.policy}")
    first = next(found)
    assert (first["pattern"], first["way"]) == ("stream", "read")
    assert round(first["share_of_buses"], 4) == row.stream.read
    assert first["share_of_peak"] == pytest.approx(first["share_of_buses"], rel=0.001)


def test_the_shipped_table_has_every_memory_under_the_policy_of_chips_that_name_none():
    table = config.load(TABLE, EfficiencyTable)
    assert table.command.startswith("cosim bench --filter memory/efficiency")
    assert table.version.startswith("cosim-speech ")
    assert date.fromisoformat(table.date)
    known = {row.memory for row in table.memories if row.policy == MemoryStack.policy}
    shipped = {path.stem for path in (configs_root() / "memory" / "timing").glob("*.yaml")}
    assert known == shipped


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("memory.policy=dramsim4", 'no shares of hbm2_2000 under policy "dramsim4"'),
        (
            "memory.address_map=row bank bank_group pseudo_channel column channel",
            "expected row bank column bank_group pseudo_channel channel",
        ),
        ("memory.timing=null", "memory.efficiency: found without memory.timing"),
        ("memory.fidelity=exact", 'memory.efficiency: found beside fidelity "exact"'),
    ],
)
def test_what_the_table_lacks_is_told_in_a_line(setting, told):
    with pytest.raises(CosimError) as caught:
        load_chip(CHIP, assignments=(*MEASURED, setting))
    (line,) = caught.value.problems
    assert told in line


def test_a_memory_without_shares_is_told_with_the_nearest_name(chip):
    table = config.load(TABLE, EfficiencyTable)
    spec = replace(chip.measured.spec, name="hbm4_800")
    told = 'no shares of memory "hbm4_800"; did you mean "hbm4_8000"'
    with pytest.raises(ValueError, match=told):
        measured(chip.architecture.memory, spec, table)
