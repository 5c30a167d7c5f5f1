"""The delays of every shipped memory are those of the tables that its file names.

`REFERENCE` was read off the constraint lists of Ramulator 2.1 and the timing code of DRAMsim3, not
computed from our files: ticks from the first tick of one command to the first of the next.
"""

from pathlib import Path

import pytest
import yaml

from cosim import config
from hwmodels.dram.commands import BANK, CHANNEL, COMMANDS, GROUP, RANK, STACK, constraints
from hwmodels.dram.spec import DramSpec

FOLDER = Path(__file__).resolve().parents[3] / "configs/memory/timing"
FILES = sorted(FOLDER.glob("*.yaml"))

RAMULATOR = ("hbm2_2400", "hbm3_6400", "hbm4_8000", "lpddr5_6400")
RAMULATOR_ROWS = {
    ("ACT", "PRE", CHANNEL): (2, 3, 3, None),
    ("RD", "RD", CHANNEL): (None, 2, 2, None),
    ("RD", "RD", RANK): (2, 4, 4, 2),
    ("WRA", "WR", RANK): (2, 4, 4, 2),
    ("RD", "RD", STACK): (2, 4, 4, 2),
    ("RDA", "RD", GROUP): (4, 8, 8, 4),
    ("WR", "WR", GROUP): (4, 8, 8, 4),
    ("RD", "WR", RANK): (15, 40, 50, 12),
    ("WR", "RD", RANK): (16, 38, 42, 16),
    ("WR", "RD", GROUP): (18, 44, 50, 23),
    ("ACT", "ACT", RANK): (5, 8, 10, 4),
    ("ACT", "ACT", GROUP): (5, 10, 14, 4),
    ("ACT", "ACT", BANK): (57, 144, 180, 49),
    ("ACT", "RD", BANK): (18, 63, 79, 15),
    ("ACT", "WR", BANK): (15, 31, 39, 15),
    ("ACT", "PRE", BANK): (41, 92, 116, 34),
    ("ACT", "PREab", RANK): (41, 92, 116, 34),
    ("PRE", "ACT", BANK): (16, 50, 64, 15),
    ("PREab", "ACT", RANK): (16, 50, 64, 17),
    ("PRE", "PRE", RANK): (None, 4, 4, 2),
    ("RD", "PRE", BANK): (6, 19, 25, 8),
    ("WR", "PREab", RANK): (27, 91, 109, 39),
    ("RDA", "ACT", BANK): (22, 69, 89, 23),
    ("WRA", "ACT", BANK): (43, 141, 173, 54),
    ("ACT", "REFab", RANK): (58, 146, 182, 49),
    ("PRE", "REFab", RANK): (17, 52, 66, 15),
    ("RDA", "REFab", RANK): (23, 71, 91, 23),
    ("WRA", "REFab", RANK): (44, 143, 175, 54),
    ("REFab", "ACT", RANK): (420, 1118, 1798, 168),
    ("REFab", "PREab", RANK): (421, 1120, 1800, 168),
    ("REFpb", "ACT", BANK): (192, 638, 1118, 96),
    ("ACT", "REFpb", BANK): (58, 146, 182, 49),
    ("PRE", "REFpb", BANK): (17, 52, 66, 15),
    ("REFpb", "ACT", RANK): (9, 14, 30, 6),
}
DRAMSIM = ("hbm1_1000", "hmc1_4gb", "lpddr4_2400_2rank")
DRAMSIM_ROWS = {
    ("RD", "RD", GROUP): (2, 8, 8),
    ("WR", "WR", RANK): (2, 8, 8),
    ("RD", "WR", RANK): (9, 8, 12),
    ("WR", "RD", GROUP): (8, 28, 38),
    ("WR", "RD", RANK): (7, 28, 30),
    ("RD", "PRE", BANK): (5, 5, 12),
    ("WR", "PRE", BANK): (12, 42, 52),
    ("RDA", "ACT", BANK): (14, 30, 35),
    ("WRA", "ACT", BANK): (19, 59, 67),
    ("RDA", "REFab", RANK): (12, 22, 27),
    ("ACT", "RD", BANK): (7, 17, 15),
    ("ACT", "WR", BANK): (7, 17, 15),
    ("ACT", "PRE", BANK): (17, 34, 32),
    ("ACT", "ACT", BANK): (24, 51, 47),
    ("ACT", "ACT", GROUP): (3, 4, 8),
    ("ACT", "ACT", RANK): (2, 4, 8),
    ("PRE", "ACT", BANK): (7, 17, 15),
    ("PRE", "PRE", RANK): (None, None, 2),
    ("REFab", "ACT", RANK): (130, 420, 392),
}
WINDOWS = {
    "hbm2_2400": 19,
    "hbm3_6400": 48,
    "hbm4_8000": 60,
    "lpddr5_6400": 16,
    "hbm1_1000": 15,
    "hmc1_4gb": 27,
    "lpddr4_2400_2rank": 32,
}
OTHER_RANK = {  # stack ids, or ranks that share a data bus
    ("hbm3_6400", "RD", "RD"): 6,
    ("hbm4_8000", "RD", "RD"): 4,
    ("lpddr4_2400_2rank", "RD", "RD"): 9,
    ("lpddr4_2400_2rank", "WR", "WR"): 8,
    ("lpddr4_2400_2rank", "RD", "WR"): 12,
    ("lpddr4_2400_2rank", "WR", "RD"): 6,
}
PEAKS = {  # bytes per second: data pins times their rate
    "hbm1_1000": 8 * 128 / 8 * 1e9,
    "hbm2_2400": 8 * 128 / 8 * 2 / 0.833e-9,
    "hbm2e_3200": 8 * 128 / 8 * 3.2e9,
    "hbm3_6400": 16 * 64 / 8 * 6.4e9,
    "hbm4_8000": 32 * 64 / 8 * 8e9,
    "hmc1_4gb": 16 * 32 / 8 * 2.5e9,
    "hmc2_8gb": 32 * 32 / 8 * 2.5e9,
    "wide_io_266": 4 * 128 / 8 / 3.759e-9,
    "wide_io2_1066": 4 * 64 / 8 * 2 / 1.876e-9,
    "lpddr4_3200": 4 * 16 / 8 * 3.2e9,
    "lpddr4_2400_2rank": 64 / 8 * 2 / 0.83e-9,
    "lpddr5_6400": 4 * 16 / 8 * 6.4e9,
}
CAPACITIES = {  # bits
    "hbm1_1000": 8 * 4 << 30,
    "hbm3_6400": 8 * 16 << 30,
    "hbm4_8000": 8 * 32 << 30,
    "hmc1_4gb": 8 * 4 << 30,
    "hmc2_8gb": 8 * 8 << 30,
    "wide_io_266": 4 * 256 << 20,
    "wide_io2_1066": 4 * 2 << 30,
    "lpddr4_3200": 4 * 8 << 30,
    "lpddr5_6400": 4 * 8 << 30,
}


def load(name):
    return config.load(FOLDER / f"{name}.yaml", DramSpec)


def delays(name):
    """Return the longest delay of each pair of commands by level, and those between siblings."""
    own, others, windows = {}, {}, []
    for row in constraints(load(name)):
        pair = COMMANDS[row.preceding], COMMANDS[row.following]
        if row.window > 1:
            windows.append((*pair, row.level, row.ticks))
            continue
        table, key = (others, pair) if row.is_sibling else (own, (*pair, row.level))
        table[key] = max(row.ticks, table.get(key, 0))
    return own, others, windows


@pytest.mark.parametrize(
    ("name", "rows", "column"),
    [(name, RAMULATOR_ROWS, i) for i, name in enumerate(RAMULATOR)]
    + [(name, DRAMSIM_ROWS, i) for i, name in enumerate(DRAMSIM)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_delays_are_those_of_the_reference(name, rows, column):
    own, others, windows = delays(name)
    for key, values in rows.items():
        assert own.get(key) == values[column], key
    assert windows == [("ACT", "ACT", RANK, WINDOWS[name])]
    for (memory, *pair), ticks in OTHER_RANK.items():
        if memory == name:
            assert others.get(tuple(pair)) == ticks, pair


def test_hbm4_keeps_refreshes_of_a_bank_farther_from_activates_of_its_bank_group():
    own, _, _ = delays("hbm4_8000")
    assert (own["ACT", "REFpb", RANK], own["ACT", "REFpb", GROUP]) == (12, 16)
    assert own["REFpb", "ACT", RANK] >= 12


@pytest.mark.parametrize("name", PEAKS)
def test_peaks_are_pins_times_rate(name):
    assert load(name).peak_bytes_per_s == pytest.approx(PEAKS[name], rel=1e-12)


@pytest.mark.parametrize("name", CAPACITIES)
def test_capacities_are_those_of_the_dies(name):
    assert 8 * load(name).organisation.capacity_bytes == CAPACITIES[name]


def test_a_faster_bin_keeps_the_nanoseconds_of_the_array():
    # HBM2E is extrapolated: no delay of the array may be shorter than that of HBM2-2000.
    slow, fast = load("hbm2_2000"), load("hbm2e_3200")
    assert fast.status == "extrapolated"
    for name in ("tRCDRD", "tRCDWR", "tRP", "tRAS", "tRC", "tWR", "tFAW", "tRRD_S", "tRFC"):
        before, after = (spec.cycles(name) * spec.clock_ps for spec in (slow, fast))
        assert before <= after < before + 1.5 * fast.clock_ps, name


def test_two_activates_of_wide_io_are_as_far_apart_as_its_window_of_two_demands():
    # JESD229 counts two ACT per tTAW of 14 clocks; our rules count four per tFAW.
    spec = load("wide_io_266")
    earliest = [0]
    for i in range(1, 9):
        soonest = earliest[-1] + spec.cycles("tRRD_S")
        if i >= 4:
            soonest = max(soonest, earliest[i - 4] + spec.cycles("tFAW"))
        earliest.append(soonest)
    assert all(third - first >= 14 for first, third in zip(earliest, earliest[2:], strict=False))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_whatever_nobody_published_says_assumed(path):
    data = yaml.safe_load(path.read_text())
    known = ("Ramulator", "DRAMsim3", "DRAMSys", "JESD")
    for name, text in data["sources"].items():
        assert "assumed" in text or any(source in text for source in known), (name, text)
    if data.get("status", "published") != "published":
        assert any("assumed" in text for text in data["sources"].values())
