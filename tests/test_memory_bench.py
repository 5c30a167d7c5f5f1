"""`cosim bench --filter memory`: what its rows say, and that docs/memory.md says the same."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from silent import Silent

from cosim import bench
from cosim.bench import memory_changes, memory_chip
from cosim.bench.memory import references, subject
from cosim.bench.memory_traces import addresses, make_trace, mix
from cosim.chip import load_chip
from cosim.cli import main
from cosim.config import configs_root
from cosim.errors import CosimError
from cosim.report.memory_markdown import memory_markdown
from hwmodels.dram.address import locate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
FEW = 2000


def rows_of(text, **options):
    return bench.bench_memory(text, rounds=1, progress=Silent(), **options).rows


# --- traces -----------------------------------------------------------------------------------


def test_the_hash_of_random_places_is_splitmix64():
    # The first outputs of the generator seeded with 1234567, as its authors print them.
    step = 0x9E3779B97F4A7C15
    seeds = np.array([(1234567 + i * step) & (2**64 - 1) for i in range(3)], np.uint64)
    assert mix(seeds.view(np.int64)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_strides_come_round_to_the_bursts_between():
    places, writes = addresses("S4096", (1 << 18) + 3, 32)
    assert places[:2].tolist() == [0, 4096]
    assert places[1 << 18 :].tolist() == [32, 4128, 8224]
    assert not writes.any()


def test_a_mix_is_two_streams_of_reads_and_one_of_writes_in_chunks_of_64():
    places, writes = addresses("MIX", 6 * 64, 32)
    starts = places[::64]
    assert starts.tolist() == [0, 2048, 1 << 28, (1 << 28) + 2048, 1 << 29, 4096]
    assert writes.reshape(6, 64).all(axis=1).tolist() == [False] * 4 + [True, False]


def test_a_load_spaces_requests_by_its_share_of_the_peak():
    spec = subject("hbm2_2000", "ramulator2").spec
    requests = make_trace(spec, "SR", 5, load=0.25)
    np.testing.assert_allclose(np.diff(requests.arrival_cycles), 32 / 256 / 0.25)
    with pytest.raises(ValueError, match=r'found "SX", expected SR, .* or a stride as S256'):
        make_trace(spec, "SX", 5)


# --- rows -------------------------------------------------------------------------------------


def test_a_filter_takes_cases_by_memory_policy_and_trace():
    rows = rows_of("memory/hbm2_2000_legacy/dramsim3/SR-0.1", count=FEW)
    assert [row["quantity"] for row in rows] == [
        *("mean_ns", "p99_ns", "refresh_pj_per_bit", "rest_pj_per_bit", "total_pj_per_bit")
    ]
    assert all(row["reference"] > 0 for row in rows)
    with pytest.raises(CosimError, match="memory/MEMORY/POLICY/TRACE"):
        rows_of("memory/hbm9", count=FEW)


def test_every_reference_names_a_shipped_memory_that_can_do_what_its_policy_asks():
    for one in references():
        found = subject(one.memory, one.policy)
        assert found.energy.name == one.memory
        assert one.points or one.commands_pj


def test_every_change_differs_from_what_is_shipped_in_one_thing_and_is_a_sound_memory():
    known = list(memory_changes.changes())
    assert len({change.case for change in known}) == len(known)
    assert {change.table for change in known} == {
        *("maps", "channels", "windows", "refresh", "queues")
    }
    for change in known:
        spec = change.subject.spec
        small = replace(spec, organisation=replace(spec.organisation, rows=2))
        places = locate(small, np.arange(1024) * small.organisation.burst_bytes)
        assert len({tuple(place) for place in places.tolist()}) == 1024


def test_rows_of_a_change_hold_shares_and_the_limit_that_binds():
    rows = rows_of("memory/what-if/maps/hbm2_2000/columns of a bank", count=FEW)
    assert [row["trace"] for row in rows] == list(memory_changes.MAP_TRACES)
    stream = rows[0]
    assert stream["binding_limit"] in {"tCCD_L", "bus"}
    assert sum(stream["limits"].values()) == pytest.approx(1)
    assert stream["share_of_peak"] < 0.6


def test_a_chip_sees_what_its_map_costs():
    cases = memory_chip.chip_cases()
    plain, narrow = (memory_chip.chip_row(case) for case in cases[:2])
    assert plain["share_of_peak"] > 0.85
    assert narrow["share_of_peak"] == pytest.approx(0.5, abs=0.02)
    assert narrow["memory"]["limits"]["tCCD_L"] > 0.3
    assert narrow["cycles"] > 1.7 * plain["cycles"]


def test_a_chip_may_have_five_channels_and_names_the_mistakes_of_its_map():
    path = configs_root() / "hardware" / "tpuv4i_quarter_128.yaml"
    exact = ("memory.fidelity=exact", "memory.timing=configs/memory/timing/hbm2_2000.yaml")
    chip = load_chip(path, assignments=exact)
    assert chip.dram.spec.organisation.channels == 5
    wrong = "memory.address_map=row bank^rwo colum bank_group pseudo_channel channel"
    with pytest.raises(CosimError) as caught:
        load_chip(path, assignments=(*exact, wrong))
    text = "\n".join(caught.value.problems)
    assert 'unknown field "colum"; did you mean "column"?' in text
    assert 'bank^rwo: unknown field "rwo"; did you mean "row"?' in text


# --- command and page -------------------------------------------------------------------------


def test_the_command_saves_prints_and_writes_the_same_rows(tmp_path):
    saved, page = tmp_path / "rows.json", tmp_path / "memory.md"
    case = "memory/hbm1_1000/dramsim3/idle"
    run = CliRunner().invoke(
        main, ["bench", "--filter", case, "--out", str(saved), "--markdown", str(page), "--json"]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout) == json.loads(saved.read_text())
    again = CliRunner().invoke(main, ["bench", "--filter", case, "--load", str(saved)])
    assert again.stdout.rstrip("\n") == page.read_text().rstrip("\n")
    assert "| read_of_closed_row (cycles) | 17 | 17 | +0.00 % |" in again.stdout
    refused = CliRunner().invoke(main, ["bench", "--filter", "memory", "--calibrate"])
    assert refused.exit_code == 2
    assert "--filter memory: found beside --calibrate" in refused.stderr


def page_cell(section, row, column):
    """Return a cell of the first table below a heading of the page, by name of row and column."""
    part = PAGE.read_text().partition(f"{section}\n")[2].partition("\n#")[0]
    lines = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", part, re.MULTILINE)]
    at = lines[0].index(column)
    return next(line[at] for line in lines if line[0] == row)


def test_the_page_says_what_the_command_says():
    rows = rows_of("memory/hbm2_2000/ramulator2/SR-0.8")
    rows += rows_of("memory/what-if/windows/hbm2_2000/tFAW 30")
    text = memory_markdown(
        rows, bench.bench_memory("hbm1_1000/dramsim3/idle", rounds=1, progress=Silent()).total
    )
    late = page_cell("### hbm2_2000, `ramulator2`", "SR-0.8", "mean ns")
    assert f"| SR-0.8 | {late} |" in text
    window = page_cell("## The window of four ACT (tFAW)", "hbm2_2000, tFAW 30 cycles", "RR")
    assert window in text
    assert "tFAW" in window


def test_the_page_shows_what_a_map_is_worth():
    table = "## Address maps"
    shares = {
        name: [float(page_cell(table, name, trace).split()[0]) for trace in ("SR", "S256", "S4096")]
        for name in memory_changes.MAPS
    }
    plain = shares["neighbours in other channels and bank groups"]
    assert plain[0] > 89
    assert 48 < shares["columns of a bank first"][0] < 52
    hashed = shares["channel and pseudo-channel hashed"]
    assert hashed[0] > 89
    assert hashed[1] > 6 * plain[1]
    assert hashed[2] > 6 * plain[2]
    for name, text in memory_changes.MAPS.items():
        assert f"- {name}: `{text}`" in PAGE.read_text()
