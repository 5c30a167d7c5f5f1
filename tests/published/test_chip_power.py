"""Power of whole chips on a dense GEMM stream beside what their makers say, with a verdict.

Neither is a validation: makers state an envelope, not what one kernel takes, and no node for one of
the chips. What can fail is the order of magnitude, and that ours stays below a whole board's.
"""

import sys

import pytest

from cosim.config import configs_root
from cosim.simulate import simulate_any

DENSE = "name,m,n,k,count,a_number,w_number,density\ndense,{m},{n},{k},1,i8,i8,\n"


def power(folder, chip, table, shape, *assignments):
    """Return watts, their range and tera-operations per second of one dense product."""
    path = folder / "dense.csv"
    path.write_text(DENSE.format(**dict(zip("mnk", shape, strict=True))))
    total = simulate_any(
        path,
        configs_root() / "hardware" / f"{chip}.yaml",
        energy=configs_root() / "energy" / f"{table}.yaml",
        assignments=assignments,
    )[1]
    seconds = total["seconds"]
    watts = [total[key] / seconds for key in ("energy_j", "energy_low_j", "energy_high_j")]
    return watts, 2e-12 * total["macs"] / seconds


def told(chip, published_w, watts, verdict):
    middle, low, high = watts
    sys.stdout.write(
        f"{chip}: published {published_w:g} W, ours {middle:.3g} W ({low:.3g} to {high:.3g}), "
        f"{100 * (middle / published_w - 1):+.0f} %: {verdict}\n"
    )


def test_an_edge_tpu_takes_about_its_two_watts_at_four_tera_operations(tmp_path):
    # Coral data sheet: 4 TOPS, 2 TOPS per watt. 28 nm is assumed: its node is not published. The
    # host's memory is left out, as its bus cannot feed the array with products that are not fused.
    watts, tops = power(
        tmp_path,
        "edge_tpu_64",
        "aladdin_cacti_28nm",
        (4096, 1024, 1024),
        "memory.technology=configs/memory/ideal.yaml",
    )
    told("Edge TPU at 28 nm, array and buffers", 2.0, watts, "agrees, for a node that is assumed")
    assert tops == pytest.approx(3.93, rel=0.01)
    assert watts[1] < 2.0 < watts[2]


def test_four_quarters_of_a_tpu_v4i_explain_a_part_of_its_envelope(tmp_path):
    # Jouppi et al., ISCA 2021: 175 W, of which 8-bit products are no typical use. Not in ours:
    # links between chips, PCIe, scalar cores, bf16, and 7/8 of the die, 400 square millimetres.
    watts, tops = power(tmp_path, "tpuv4i_quarter_128", "tpu_v4i_7nm", (2048, 4096, 4096))
    four = [4 * one for one in watts]
    told("TPUv4i, four arrays with memory", 175.0, four, "explains a sixth, no validation")
    assert 4 * tops == pytest.approx(137.6, rel=0.02)
    assert 0.1 * 175 < four[0] < four[2] < 175
