"""What an address map is worth to a chip: one product that its memory bounds, by every map."""

from pathlib import Path
from tempfile import TemporaryDirectory

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.bench.measure import Row
from cosim.bench.memory_changes import MAPS
from cosim.config import configs_root
from cosim.simulate import simulate_any

CHIP = "stacked_server_128"
CHANGES = (
    "memory.fidelity=exact",
    "memory.timing=configs/memory/timing/hbm2_2000.yaml",
    "memory.channels=2",
    "array.schedule=double_buffered",
)
PRODUCT = "name,m,n,k,bits\nproject,8,4096,4096,8\n"


def chip_cases() -> list[str]:
    """Return the ids of the rows of `chip_row`."""
    return [f"memory/chip/{CHIP}/{name}" for name in MAPS]


def chip_row(case: str) -> Row:
    """Return what `cosim simulate` says of `PRODUCT` on the chip with one of `MAPS`."""
    change = case.rpartition("/")[2]
    with TemporaryDirectory() as folder:
        products = Path(folder) / "layers.csv"
        products.write_text(PRODUCT, encoding="utf-8")
        _, total = simulate_any(
            products,
            configs_root() / "hardware" / f"{CHIP}.yaml",
            reuse=False,
            assignments=(*CHANGES, f"memory.address_map={MAPS[change]}"),
        )
    return {
        "case": case,
        "kind": "chip",
        "chip": CHIP,
        "settings": list(CHANGES),
        "work": PRODUCT,
        "change": change,
        "address_map": MAPS[change],
        **{key: total[key] for key in ("cycles", "energy_j", "memory")},
        "share_of_peak": total["peak_bandwidth_fraction"],
    }
