"""What `run.json` and `cosim simulate` say of energy and area beside the totals."""

from dataclasses import asdict

from cosim.chip import Chip
from hwmodels.area import chip_area, via_share
from hwmodels.energy import EnergyRow
from hwmodels.energy_split import Cause, by_cause, by_component, by_factor, inherited_share
from hwmodels.stats import RunStats

MM2 = 1e6  # square millimetres in a square metre


def energy_totals(stats: RunStats, chip: Chip) -> dict[str, object]:
    """Return area of the chip, and joules of a run by component, by cause and by factor.

    Areas are in square millimetres, None where the energy table prices none.
    """
    area = chip_area(chip.architecture, chip.technology, chip.energy)
    mm2 = MM2 * sum(row.area_m2 for row in area) if area else None
    return {
        "area_mm2": mm2,
        "area_low_mm2": MM2 * sum(row.area_low_m2 for row in area) if area else None,
        "area_high_mm2": MM2 * sum(row.area_high_m2 for row in area) if area else None,
        "via_area_fraction": via_share(area) if area else None,
        "area_rows": [{**asdict(row), "area_mm2": MM2 * row.area_m2} for row in area],
        "macs_per_second_per_mm2": stats.macs / stats.seconds / mm2
        if mm2 and stats.cycles.total
        else None,
        "energy_table": chip.energy.name,
        "energy_inherited_fraction": inherited_share(stats.energy),
        "energy_by_component_j": by_component(stats.energy),
        "energy_by_cause_j": by_cause(stats.energy),
        "energy_by_factor_j": {name: asdict(one) for name, one in by_factor(stats.energy).items()},
        "energy_by_kind_j": _by_kind(stats),
        "energy_per_mac_j": stats.energy_j / stats.macs if stats.macs else None,
        "power_w": stats.energy_j / stats.seconds if stats.cycles.total else None,
    }


def _by_kind(stats: RunStats) -> dict[str, dict[Cause, float]]:
    """Return joules by cause of each kind of layer."""
    rows: dict[str, list[EnergyRow]] = {}
    for layer in stats.layers:
        rows.setdefault(layer.kind, []).extend(layer.energy)
    return {kind: by_cause(found) for kind, found in rows.items()}
