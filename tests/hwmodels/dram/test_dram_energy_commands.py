"""Energy of commands: currents by hand, counts into rows, and refusals."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import config
from cosim.errors import CosimError
from hwmodels.architecture import Figure
from hwmodels.dram.energy import (
    ACTIONS,
    CORE,
    DramEnergy,
    Rail,
    constant_pj_per_bit,
    core_figures,
    dram_counts,
    dram_prices,
)
from hwmodels.dram.problems import SpecError
from hwmodels.dram.spec import DramSpec
from hwmodels.energy import Ledger

FOLDER = Path(__file__).resolve().parents[3] / "configs/memory"
NAMES = sorted(path.stem for path in (FOLDER / "timing").glob("*.yaml"))
# DRAMsim3's own figures per command in its units, V mA clocks, and its clock in ns, which it
# leaves out: ACT, RD, WR, REF, a clock with a row open, a clock without.
DRAMSIM = {
    "hbm2_2000_legacy": (1.0, 828, 804, 1068, 60_840, 66.0, 48.0),
    "hbm1_1000": (2.0, 414, 732, 924, 30_420, 66.0, 48.0),
    "hmc1_4gb": (0.8, 285.6, 412.8, 384, 65_016, 25.2, 22.8),
    "ddr4_3200_2rank": (0.63, 6720, 4454.4, 3763.2, 1_064_448, 499.2, 355.2),
    "lpddr4_2400_2rank": (0.83, 8380.8, 7526.4, 6950.4, 438_413, 225.6, 163.2),
}


@cache
def load(name):
    spec = config.load(FOLDER / "timing" / f"{name}.yaml", DramSpec)
    return spec, config.load(FOLDER / "energy" / f"{name}.yaml", DramEnergy)


def total(spec, energy, commands, *, rank_ticks=0, open_rank_ticks=0):
    counts = dram_counts(spec, commands, rank_ticks=rank_ticks, open_rank_ticks=open_rank_ticks)
    prices = dram_prices(spec, energy)
    rows = Ledger(prices).rows({action: n for action, n in counts.items() if action in prices})
    return sum(row.energy_j for row in rows)


@pytest.mark.parametrize("name", DRAMSIM)
def test_currents_give_the_joules_of_dramsim3_times_its_clock(name):
    spec, energy = load(name)
    prices = dram_prices(spec, replace(energy, core={}))
    clock_ns, *figures = DRAMSIM[name]
    actions = ("activate", "read_burst", "write_burst", "refresh_rank", "open_tick", "closed_tick")
    for action, figure in zip(actions, figures, strict=True):
        joules = prices["memory", action].value_j
        assert joules == pytest.approx(figure * clock_ns * 1e-12, rel=1e-5), action


def test_a_stream_has_the_published_split():
    # HBM2 in DRAMsim3, saturated sequential reads: 1.957 pJ/bit = 0.057 ACT + 1.570 RD + 0.057 REF
    # + 0.273 at rest, at 92.52 % of 256 GB/s. 96.5 % hits leave 3,500 ACT, and 27.02 us hold six
    # REF on each of eight channels; a channel is closed for some 2,000 of its clocks.
    spec, energy = load("hbm2_2000_legacy")
    clocks = round(100_000 * 64 / (0.9252 * 256))
    counts = dram_counts(
        spec,
        {"RD": 100_000, "ACT": 3500, "PRE": 3400, "REFab": 48},
        rank_ticks=8 * clocks,
        open_rank_ticks=8 * (clocks - 2000),
    )
    rows = {row.action: row for row in Ledger(dram_prices(spec, energy)).rows(counts)}
    bits = 100_000 * 512
    split = [rows[name].energy_j / bits for name in ("activate", "read_burst", "refresh_rank")]
    assert split == pytest.approx([0.057e-12, 1.570e-12, 0.057e-12], rel=0.02)
    rest = rows["open_tick"].energy_j + rows["closed_tick"].energy_j
    assert rest / bits == pytest.approx(0.273e-12, rel=0.02)
    assert sum((*split, rest / bits)) == pytest.approx(1.957e-12, rel=0.02)
    assert rows["io_bit"].count == rows["via_bit"].count == bits


def test_several_supplies_and_devices_add_up():
    # LPDDR4 by hand: VDD1 1.8 V and VDD2 1.1 V, ACT over tRC 97, tRAS 68, tRP 29 of 0.625 ns.
    spec, energy = load("lpddr4_3200")
    first = 1.8 * (3.5 * 97 - 2.25 * 68 - 2.0 * 29)
    second = 1.1 * (45 * 97 - 30 * 68 - 27 * 29)
    activate_j = (first + second) * 1e-3 * 0.625e-9
    read_j = 1.1 * (275 - 30) * 1e-3 * 8 * 0.625e-9 / 256
    figures = core_figures(spec, energy)
    assert figures["activate_j"].value == pytest.approx(activate_j, rel=1e-12)
    assert figures["read_j_per_bit"].value == pytest.approx(read_j, rel=1e-12)
    twice = core_figures(spec, replace(energy, core={}, devices_per_rank=2.0))
    assert twice["activate_j"].value == pytest.approx(2 * activate_j, rel=1e-12)


def test_refreshing_all_banks_one_by_one_takes_what_refreshing_them_at_once_does():
    spec, energy = load("hbm3_6400")
    banks = 2 * 4 * 4  # of a pseudo-channel, both stack ids
    one = total(spec, energy, {"REFab": 3})
    assert total(spec, energy, {"REFpb": 3 * banks}) == pytest.approx(one, rel=1e-12)


def test_a_constant_figure_per_bit_is_right_at_one_load_only():
    # 1.957 pJ/bit of a saturated stream; at a tenth of the load DRAMsim3 has 4.791, 2.4 times that.
    spec, energy = load("hbm2_2000_legacy")
    flat = constant_pj_per_bit(spec, Figure(1.957e-12, "DRAMsim3", 1e-12, 3e-12))
    bits = 512_000_000
    clocks = round(1_000_000 * 64 / 25.6)
    rest = {"rank_ticks": 8 * clocks, "open_rank_ticks": 7 * clocks}
    commands = {"RD": 1_000_000, "ACT": 52_000, "REFab": 8 * clocks // 3900}
    assert total(spec, flat, commands, **rest) == pytest.approx(bits * 1.957e-12, rel=1e-9)
    wires = bits * (0.06e-12 + 0.80e-12)
    assert total(spec, energy, commands, **rest) - wires > 2.3 * bits * 1.957e-12
    price = dram_prices(spec, flat)["memory", "write_burst"]
    assert (price.low_j, price.high_j) == pytest.approx((512e-12, 3 * 512e-12), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_every_memory_has_energy_with_ranges_and_sources(name):
    spec, energy = load(name)
    prices = dram_prices(spec, energy)
    missing = {"via_bit"} if energy.via_j_per_bit is None else set()
    assert {action for _, action in prices} == set(ACTIONS) - missing
    known = ("DRAMsim3", "DRAMSys", "HBM-Power", "O'Connor", "Jeddeloh", "as ", "VDDQ")
    for (component, action), price in prices.items():
        assert component == "memory"
        assert 0 < price.low_j <= price.value_j <= price.high_j, action
        assert price.low_j < price.high_j, action
        assert "assumed" in price.source or any(word in price.source for word in known), action
    figures = core_figures(spec, energy)
    assert figures["closed_w"].value < figures["open_w"].value
    if spec.status != "published":
        assert energy.status == spec.status
    if not energy.rails:  # nobody published its currents
        assert energy.status != "published"


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 10**9), min_size=6, max_size=6),
    ticks=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
)
def test_energy_is_a_sum_that_grows_with_every_command_and_with_time(counts, ticks):
    spec, energy = load("hbm2_2000")
    names = ("ACT", "RD", "RDA", "WR", "WRA", "REFab")
    commands = dict(zip(names, counts, strict=True))
    rest = {"rank_ticks": sum(ticks), "open_rank_ticks": ticks[0]}
    base = total(spec, energy, commands, **rest)
    figures = core_figures(spec, energy)
    bits = 256 * sum(counts[1:5])
    wires = 0.06e-12 + 0.80e-12
    by_hand = (
        counts[0] * figures["activate_j"].value
        + 256 * (counts[1] + counts[2]) * figures["read_j_per_bit"].value
        + 256 * (counts[3] + counts[4]) * figures["write_j_per_bit"].value
        + counts[5] * figures["refresh_j"].value
        + (ticks[0] * 0.033 + ticks[1] * 0.024) * 1e-9
        + bits * wires
    )
    assert base == pytest.approx(by_hand, rel=1e-9, abs=1e-30)
    for name in names:
        more = {**commands, name: commands[name] + 10**6}
        assert total(spec, energy, more, **rest) > base
    longer = {"rank_ticks": sum(ticks) + 10**6, "open_rank_ticks": ticks[0]}
    assert total(spec, energy, commands, **longer) > base


def document(**changes):
    stated = {"source": "assumed", "value": 1e-12}
    data = {
        "name": "x",
        "io_j_per_bit": stated,
        "core": {name: dict(stated) for name in CORE},
    }
    return {**data, **changes}


def refusals(data):
    with pytest.raises(CosimError) as caught:
        config.parse(data, DramEnergy, source="energy.yaml")
    return "\n".join(caught.value.problems)


def test_all_mistakes_are_told_at_once():
    data = document(via_j_per_bit={"source": "assumed", "value": 2e-12, "high": 1e-12})
    data["core"]["actvate_j"] = data["core"].pop("activate_j")
    data["core"]["open_w"].pop("value")
    text = refusals(data)
    for part in (
        'core.actvate_j: unknown figure; did you mean "activate_j"?',
        "core.activate_j: missing, without rails expected the value of ACT with the PRE after it",
        "core.open_w: missing",
        "via_j_per_bit: found low 2e-12, value 2e-12, high 1e-12",
    ):
        assert part in text, part


def test_currents_out_of_order_are_refused():
    rail = {
        "source": "assumed",
        "voltage_v": 1.2,
        **dict.fromkeys(("idd0_a", "idd2n_a", "idd4r_a", "idd4w_a", "idd5_a"), 0.05),
        "idd3n_a": 0.06,
    }
    text = refusals(document(rails={"vdd": rail}))
    assert "rails.vdd.idd4r_a: found 0.05, expected at least idd3n_a, 0.06" in text
    assert "rails.vdd.idd5_a" in text


def test_currents_that_give_less_than_nothing_are_refused():
    # IDD0 so close to IDD3N that ACT itself would give energy back.
    spec, _ = load("hbm2_2000")
    rail = Rail("assumed", 1.2, 0.041, 0.040, 0.055, 0.39, 0.5, 0.25)
    energy = DramEnergy("hbm2_2000", load("hbm2_2000")[1].io_j_per_bit, rails={"vdd": rail})
    with pytest.raises(SpecError, match=r"core\.activate_j: .* expected 0 <= low <= value <= high"):
        core_figures(spec, energy)


def test_energy_of_another_memory_and_impossible_times_are_refused():
    spec, energy = load("hbm2_2000")
    with pytest.raises(SpecError, match='found that of "hbm2_2400", expected "hbm2_2000"'):
        dram_prices(spec, replace(energy, name="hbm2_2400"))
    with pytest.raises(ValueError, match="open_rank_ticks: found 3, expected 0 to 2"):
        dram_counts(spec, {}, rank_ticks=2, open_rank_ticks=3)
