"""A memory that contradicts itself is refused with every mistake at once."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cosim import config
from cosim.errors import CosimError
from hwmodels.dram.commands import CHANNEL, COMMANDS, LIMITS, PREAB, RANK, REFAB, constraints
from hwmodels.dram.controller import Controller
from hwmodels.dram.policy import POLICIES, check, policy
from hwmodels.dram.problems import SpecError
from hwmodels.dram.spec import OPTIONAL_TIMINGS, TIMINGS, DramSpec
from hwmodels.dram.state import LINE, SHIFT

FOLDER = Path(__file__).resolve().parents[3] / "configs/memory/timing"
FILES = sorted(FOLDER.glob("*.yaml"))


def document(name="hbm2_2000"):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def refusals(data):
    with pytest.raises(CosimError) as caught:
        config.parse(data, DramSpec, source="memory.yaml")
    return caught.value.problems


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_memory_is_sound_and_names_itself(path):
    spec = config.load(path, DramSpec)
    assert spec.name == path.stem
    assert set(spec.timings) <= {*TIMINGS, *OPTIONAL_TIMINGS}
    used = {timing.source for timing in spec.timings.values()}
    used |= {spec.organisation.source, spec.clock_source}
    assert used == set(spec.sources), "a source that nothing is taken from"
    for row in constraints(spec):
        assert row.ticks > 0
        assert row.following < LINE
        if row.following in {PREAB, REFAB}:
            assert row.level in {CHANNEL, RANK}, "a delay that is not asked of the first bank"


def test_all_contradictions_are_told_at_once():
    data = document()
    data["timings"]["tRC"]["cycles"] = 40
    data["timings"]["tCCD_L"]["cycles"] = 1
    data["timings"]["tREFI"] = {"ns": 200, "source": "r2"}
    data["timings"]["tRPP"] = data["timings"].pop("tRP")
    data["timings"]["tWR"]["ns"] = 16.0
    data["organisation"]["rows"] = 1000
    data["address_map"] = "row bank colum bank_group channel"
    text = "\n".join(refusals(data))
    for part in (
        "timings.tCCD_L: found 1 cycles, expected at least tCCD_S, 2",
        "timings.tREFI: found 200 cycles, expected at least tRFC, 350",
        'timings.tRPP: unknown timing; did you mean "tRP"?',
        "timings.tRP: missing, expected PRE to ACT of the bank",
        "timings.tWR: expected either cycles or ns",
        "found 1000 for the sizes of row, expected a power of two",
        'address_map: unknown field "colum"; did you mean "column"?',
        "address_map: pseudo_channel is missing, its 2 values take 1 bits",
        "address_map: column is missing",
    ):
        assert part in text, part
    assert all(line.startswith("memory.yaml: ") for line in text.splitlines())


def test_a_row_cycle_shorter_than_its_parts_is_refused():
    data = document()
    data["timings"]["tRC"]["cycles"] = 47
    (problem,) = refusals(data)
    assert problem.endswith("timings.tRC: found 47 cycles, expected at least tRAS + tRP, 48")


def test_zero_channels_and_unknown_keys_are_refused_by_name():
    data = document()
    data["organisation"]["channels"] = 0
    data["comand_bus"] = data.pop("command_bus")
    text = "\n".join(refusals(data))
    assert "organisation.channels: found 0, expected an integer >= 1" in text
    assert 'comand_bus: unknown key; did you mean "command_bus"?' in text


def test_zero_channels_are_refused_without_a_file_too():
    spec = config.load(FOLDER / "ddr4_3200.yaml", DramSpec)
    with pytest.raises(SpecError, match="found 0 for the sizes of channel"):
        replace(spec, organisation=replace(spec.organisation, channels=0))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("row bank column bank_group", "pseudo_channel is missing"),
        ("row bank column:3 bank_group pseudo_channel channel", "column: found 3 bits, expected 5"),
        ("row bank column bank_group pseudo_channel channel column", "column is split"),
        ("row:9 bank column bank_group pseudo_channel row:9 channel", "found 18 bits, expected 15"),
        ("row bank column column:5 bank_group pseudo_channel channel", "expected < 5"),
        ("row bank column:x bank_group pseudo_channel channel", "a number of bits"),
    ],
)
def test_maps_whose_bits_do_not_add_up_are_refused(text, problem):
    data = document()
    data["address_map"] = text
    assert any(problem in line for line in refusals(data)), refusals(data)


@pytest.mark.parametrize(
    ("hashing", "problem"),
    [
        ("row^column bank channel", "row cannot be hashed"),
        ("row bank^rwo channel", 'unknown field "rwo"; did you mean "row"?'),
        ("row bank^channel channel^row", "channel is hashed itself"),
        ("row bank^bank channel", "bank is hashed itself"),
        ("row bank^ channel", 'bank^: unknown field ""'),
        ("row bnk^row channel", 'unknown field "bnk"; did you mean "bank"?'),
    ],
)
def test_hashes_that_could_mix_up_two_addresses_are_refused(hashing, problem):
    data = document()
    data["address_map"] = hashing.replace("channel", "column bank_group pseudo_channel channel", 1)
    if "^channel" in hashing:
        data["address_map"] = "row bank^channel column bank_group pseudo_channel channel^row"
    assert any(problem in line for line in refusals(data)), refusals(data)


def test_channels_that_are_no_power_of_two_are_not_split():
    data = document()
    data["organisation"]["channels"] = 6
    data["address_map"] = "row channel bank column bank_group pseudo_channel channel:1"
    assert any("channel is split, expected one part for 6" in line for line in refusals(data))
    data["address_map"] = "row bank column bank_group pseudo_channel channel"
    config.parse(data, DramSpec, source="memory.yaml")


def test_a_source_must_be_listed():
    data = document()
    data["timings"]["tRP"]["source"] = "r3"
    (problem,) = refusals(data)
    assert 'timings.tRP.source: unknown source "r3"; expected one of r2, r2_rule' in problem


def test_unknown_policies_and_numbers_out_of_range_are_refused():
    with pytest.raises(SpecError, match='unknown policy "ramulator"; did you mean "ramulator2"'):
        policy("ramulator")
    spec = config.load(FOLDER / "hbm2_2000_legacy.yaml", DramSpec)
    wrong = replace(
        POLICIES["dramsim3"], read_queue=0, bank_queue=99, write_low=0.9, refresh="per_bank"
    )
    with pytest.raises(SpecError) as caught:
        check(spec, wrong)
    text = "\n".join(caught.value.problems)
    for part in ("read_queue", "bank_queue", "write_low", "states no tRFCpb", "whole ranks"):
        assert part in text
    with pytest.raises(SpecError, match='found "opne"; did you mean "open"'):
        check(spec, replace(POLICIES["ramulator2"], page="opne"))


@pytest.mark.parametrize("rate", [0, -1, 40])
def test_a_refresh_that_leaves_no_time_is_refused(rate):
    spec = config.load(FOLDER / "hbm2_2000.yaml", DramSpec)
    with pytest.raises(SpecError, match="refresh_rate"):
        Controller(spec, POLICIES["ramulator2"], refresh_rate=rate)


def test_refreshes_bank_by_bank_that_would_never_catch_up_are_refused():
    # 3,900 cycles for 32 banks: 31 each at four times the rate, and PRE, tRP and tRREFD take 26.
    spec = config.load(FOLDER / "hbm2_2000.yaml", DramSpec)
    Controller(spec, POLICIES["ramulator2_per_bank"], refresh_rate=4)
    with pytest.raises(SpecError, match="found 5, expected at least 1 and an interval above 26"):
        Controller(spec, POLICIES["ramulator2_per_bank"], refresh_rate=5)


def test_commands_that_hold_a_bus_for_no_time_or_beside_a_split_act_are_refused():
    spec = config.load(FOLDER / "lpddr5_6400.yaml", DramSpec)
    with pytest.raises(SpecError, match="column_ticks: found 2, expected 1 beside split_activate"):
        replace(spec, column_ticks=2)
    spec = config.load(FOLDER / "ddr4_3200.yaml", DramSpec)
    with pytest.raises(SpecError, match="activate_ticks: found 0, expected at least 1"):
        replace(spec, activate_ticks=0)


def test_pseudo_channels_refreshed_together_need_time_for_one_after_the_other():
    # 6,240 cycles for 32 banks: 97.5 each at twice the rate, 48.75 at four times; two tRP of 26,
    # tRREFD of 8 and 4 take 64.
    spec = config.load(FOLDER / "hbm3_6400.yaml", DramSpec)
    Controller(spec, POLICIES["ramulator2_per_bank"], refresh_rate=2)
    with pytest.raises(SpecError, match="found 4, expected at least 1 and an interval above 64"):
        Controller(spec, POLICIES["ramulator2_per_bank"], refresh_rate=4)


def test_nanoseconds_are_rounded_up_to_whole_cycles():
    data = document()
    for clock, cycles in ((1000, 350), (833, 421), (833.3333333333334, 420), (625, 560)):
        changed = copy.deepcopy(data)
        changed["clock_ps"] = clock
        spec = config.parse(changed, DramSpec, source="memory.yaml")
        assert spec.cycles("tRFC") == cycles


def test_delays_of_hbm2_are_those_of_its_reference_table():
    # dram_timing.md 3.1, column H2-2000: ticks after the first tick of the preceding command.
    spec = config.load(FOLDER / "hbm2_2000.yaml", DramSpec)
    table = {}
    for row in constraints(spec):
        key = COMMANDS[row.preceding], COMMANDS[row.following], row.level, row.window
        table[key] = max(row.ticks, table.get(key, 0))
    rank, group, bank = 1, 3, 4
    for key, ticks in {
        ("ACT", "ACT", 0, 1): 2,
        ("RD", "RD", rank, 1): 2,
        ("RD", "RD", group, 1): 4,
        ("RD", "WR", rank, 1): 13,
        ("WR", "RD", rank, 1): 13,
        ("WR", "RD", group, 1): 15,
        ("ACT", "ACT", rank, 1): 4,
        ("ACT", "ACT", rank, 4): 15,
        ("ACT", "ACT", bank, 1): 48,
        ("ACT", "RD", bank, 1): 15,
        ("ACT", "WR", bank, 1): 13,
        ("ACT", "PRE", bank, 1): 35,
        ("PRE", "ACT", bank, 1): 13,
        ("RD", "PRE", bank, 1): 5,
        ("WR", "PRE", bank, 1): 23,
        ("RDA", "ACT", bank, 1): 18,
        ("WRA", "ACT", bank, 1): 36,
        ("ACT", "REFab", rank, 1): 49,
        ("PREab", "REFab", rank, 1): 14,
        ("REFab", "ACT", rank, 1): 349,
        ("REFpb", "ACT", bank, 1): 159,
        ("REFpb", "ACT", rank, 1): 7,
    }.items():
        assert table[key] == ticks, key


def test_limits_fit_the_bits_kept_for_them():
    assert len(LIMITS) <= 1 << SHIFT
