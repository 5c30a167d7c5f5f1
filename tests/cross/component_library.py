"""Write configs/energy/aladdin_cacti_*nm.yaml, or tables of other nodes, from the open library.

Runs in an environment of its own, with Python 3.12 or later; see README.md here. Queries are kept
in a file, because CACTI takes some minutes for all of them; `--queries` names one to use again.

    component_env/bin/python tests/cross/component_library.py --out configs/energy
    component_env/bin/python tests/cross/component_library.py --out mine --node 14 --node 20
"""

import argparse
import json
import sys
from importlib.metadata import version
from itertools import product
from pathlib import Path

NODES = (65, 45, 32, 28, 22, 16, 7)
SIZES = tuple(1 << shift for shift in range(12, 28, 2))  # 4 KiB to 64 MiB
WIDTHS = (64, 128, 512)
BITS = (2, 4, 8, 16, 32)
NATIVE = (65, 45, 32, 22)
HOROWITZ_MAC_PJ = {"mul8": 0.2, "add8": 0.03, "add32": 0.1}
PACKAGES = ("hwcomponents-library", "hwcomponents-cacti")


def installed() -> dict[str, str]:
    """Return the versions of the packages that answer."""
    return {name: version(name) for name in PACKAGES}


def query(nodes: list[int]) -> dict[str, dict]:
    """Return what the library says, in joules, square metres and watts, by node in nm."""
    from hwcomponents_cacti import SRAM  # noqa: PLC0415 (not needed where queries are kept)
    from hwcomponents_library.library.aladdin import (  # noqa: PLC0415
        AladdinAdder,
        AladdinMultiplier,
        AladdinRegister,
    )

    found: dict[str, dict] = {}
    for nm in nodes:
        node = nm * 1e-9
        one: dict = {"add": {}, "mul": {}, "sram": []}
        for bits in BITS:
            adder = AladdinAdder(tech_node=node, width=bits)
            multiplier = AladdinMultiplier(tech_node=node, width=bits)
            one["add"][str(bits)] = [adder.add().energy, adder.area, adder.leak_power]
            one["mul"][str(bits)] = [
                multiplier.multiply().energy,
                multiplier.area,
                multiplier.leak_power,
            ]
        register = AladdinRegister(tech_node=node, width=1)
        one["reg"] = [register.write().energy, register.area, register.leak_power]
        for size in SIZES:
            for width in WIDTHS:
                sram = SRAM(tech_node=node, width=width, size=8 * size)
                joules = [sram.read().energy, sram.write().energy]
                one["sram"].append([size, width, *joules, sram.area, sram.leak_power])
        found[str(nm)] = one
    return found


def grow(found: dict[str, dict]) -> tuple[dict, set]:
    """Return joules per access by (node, size, width, way), raised where they fall, and which were.

    CACTI chooses an organisation for each size and width, and now and then a larger or wider array
    comes out cheaper than a smaller one; a smaller one could be built as the larger.
    """
    raw = {
        (int(nm), size, width, way): joules[way]
        for nm, one in found.items()
        for size, width, *joules in one["sram"]
        if width in WIDTHS
        for way in (0, 1)
    }
    raised, changed = {}, set()
    for nm, size, width, way in sorted(raw):
        below = [
            raised[key]
            for key in (
                (nm, size // 4, width, way),
                (nm, size, _narrower(width), way),
                (_finer(nm, found), size, width, way),
            )
            if key in raised
        ]
        key = nm, size, width, way
        raised[key] = max([raw[key], *below])
        if raised[key] > raw[key]:
            changed.add(key)
    return raised, changed


def _narrower(width: int) -> int:
    narrower = [other for other in WIDTHS if other < width]
    return max(narrower) if narrower else 0


def _finer(nm: int, found: dict[str, dict]) -> int:
    return max((node for node in map(int, found) if node < nm), default=0)


def pj(joules: float) -> str:
    """Return joules with three digits, as picojoules below a nanojoule: `0.468e-12`."""
    if joules >= 1e-9:
        return f"{joules:.3g}"
    return f"{float(f'{joules * 1e12:.3g}'):g}e-12"


def figure(value: str, low: str, high: str, source: str, factor: str = "") -> str:
    """Return one figure in YAML."""
    named = f', factor: "{factor}"' if factor else ""
    return f'{{value: {value}, low: {low}, high: {high}{named}, source: "{source}"}}'


def table(  # noqa: C901 (one section after the other)
    nm: int, one: dict, joules: dict, changed: set, ratio: float, leak: float, said_by: dict
) -> str:
    """Return the table of one node as YAML. `ratio` brings 45 nm here, `leak` 28 nm."""
    library, cacti = (f"{name} {said_by[name]}" for name in PACKAGES)
    cacti = f"CACTI 7 by {cacti}"
    at = f"at {nm} nm"
    how = "" if nm in NATIVE else " (between nodes)" if nm > min(NATIVE) else " (scaled from 22 nm)"

    def mul(bits: int) -> float:
        return one["mul"][str(bits)][0]

    def add(bits: int) -> float:
        return one["add"][str(bits)][0]

    def horowitz(picojoules: float) -> str:
        return pj(picojoules * 1e-12 * ratio)

    lines = [
        (
            f"# Energy on the chip at {nm} nm: Aladdin arithmetic and CACTI buffers. Joules per"
            " action, watts at rest."
        ),
        (
            "# Written by tests/cross/component_library.py. Horowitz is M. Horowitz, ISSCC 2014, 45"
            " nm, brought here by the"
        ),
        (
            f"# Aladdin ratio of an 8-bit multiply-accumulate, {ratio:.3f}. Aladdin figures are"
            " scaled from 40 nm at 0.8 V by the equations"
        ),
        (
            "# of Stillmaker and Baas (Integration 58, 2017). Multiply-accumulates of integers"
            " follow from multiply and add."
        ),
        f"name: aladdin_cacti_{nm}nm",
        f"node_m: {nm}.0e-9",
        "voltage_v: 0.8",
        "multiply:",
    ]
    for bits in BITS:
        low = 0.2 * (bits / 8) ** 2
        source = (
            f"Aladdin integer multiplier {at}, {library}; low: Horowitz, 0.2 pJ for 8 bits,"
            " quadratic in width, scaled"
        )
        text = figure(pj(mul(bits)), horowitz(low), pj(mul(bits)), source, "arithmetic")
        lines.append(f"  - {{bits: {bits}, energy_j: {text}}}")
    lines.append("add:")
    for bits in (8, 16, 32):
        low = {8: 0.03, 16: 0.05, 32: 0.1}[bits]
        source = f"Aladdin adder {at}, {library}; low: Horowitz, {low:g} pJ, scaled"
        text = figure(pj(add(bits)), horowitz(low), pj(add(bits)), source, "arithmetic")
        lines.append(f"  - {{bits: {bits}, energy_j: {text}}}")
    lines.append("actions:")
    for name, value, low, high, source in _actions(mul, add, one["reg"][0], ratio, at):
        lines.append(f"  {name}:")
        factor = "core" if name in ("core_cycle", "host_op") else "arithmetic"
        lines.append(f"    {figure(pj(value), pj(low), pj(high), source, factor)}")
    lines.append("sram:")
    for size, width in product(SIZES, WIDTHS):
        area = next(row[4] for row in one["sram"] if row[:2] == [size, width])
        lines.append(f"  - size_bytes: {size}")
        lines.append(f"    width_bits: {width}")
        for way, word in enumerate(("read", "write")):
            value = joules[nm, size, width, way] * 8 / width
            note = f"{cacti}, {nm} nm{how}, {width}-bit port"
            if (nm, size, width, way) in changed:
                note += "; raised to that of a smaller, narrower or finer one, which CACTI makes"
                note += " dearer"
            high = 1.15 if size <= 1 << 16 else 1.06
            note += f"; high: Horowitz reads {100 * (high - 1):.0f} % more for "
            note += "32 KiB at 45 nm" if size <= 1 << 16 else "1 MiB at 45 nm"
            text = figure(pj(value), pj(value), pj(value * high), note, "buffers")
            lines.append(f"    {word}_j_per_byte: {text}")
        source = f"{cacti}, {nm} nm{how}"
        lines.append(f'    area_m2: {{value: {area:.4g}, source: "{source}"}}')
    leakage = next(row[5] for row in one["sram"] if row[:2] == [1 << 16, 128]) / (1 << 16)
    text = figure(
        f"{leakage:.3g}",
        f"{min(leakage, 3.0e-11):.3g}",
        f"{max(leakage, 1.68e-10):.3g}",
        f"{cacti}, 64 KiB {at}{how}; not monotone in node, so the range is that of 65 to 22 nm",
        "leakage",
    )
    lines += ["sram_leakage_w_per_byte:", f"  {text}"]
    cell = one["mul"]["8"][2] + one["add"]["32"][2]
    text = figure(
        f"{5.0e-7 * leak:.3g}",
        "0.0",
        f"{cell:.3g}",
        "assumed: about 600 square micrometres of standard cells at 0.8 nW each at 28 nm, other"
        f" nodes as Aladdin scales; high: Aladdin, 8-bit multiplier and 32-bit adder {at}",
        "leakage",
    )
    lines += ["cell_leakage_w:", f"  {text}"]
    text = figure(
        f"{5.0e-6 * leak:.3g}",
        "0.0",
        f"{10 * cell:.3g}",
        "assumed: ten array cells per lane",
        "leakage",
    )
    lines += ["lane_leakage_w:", f"  {text}"]
    lines.append("area:")
    for name, value, high, source in _areas(one, at, library):
        text = f'{{value: {value:.3g}, low: {value:.3g}, high: {high:.3g}, source: "{source}"}}'
        lines += [f"  {name}:", f"    {text}"]
    lines += [
        "not_monotone:",
        "  leakage: CACTI gives buffers more leakage at 22 nm than at 45 nm",
    ]
    return "\n".join(lines) + "\n"


def _areas(one: dict, at: str, library: str):
    """Yield (name, value, high, source) of square metres."""
    square, adder, bit = one["mul"]["32"][1] / 32**2, one["add"]["32"][1] / 32, one["reg"][1]
    library = f"{library}, scaled from 40 nm; high: assumed 70 % of the area filled"
    yield "multiply_bit2_m2", square, square / 0.7, f"Aladdin 32-bit multiplier {at}, {library}"
    yield "add_bit_m2", adder, adder / 0.7, f"Aladdin 32-bit adder {at}, {library}"
    yield "register_bit_m2", bit, bit / 0.7, f"Aladdin register {at}, {library}"
    lane = 24**2 * square + 5 * 32 * adder + 8 * 32 * bit
    made = "an fp32 multiplier of 24 bits, five adders and eight registers of 32 bits"
    yield "lane_m2", lane, 2 * lane, f"assumed: {made}; high: assumed twice, for look-up tables"
    core = 10 * lane
    yield "core_m2", core, 3 * core, "assumed: an in-order core without caches as ten lanes"


def _actions(mul, add, register: float, ratio: float, at: str):
    """Yield (name, value, low, high, source) of every action, in joules."""
    h = 1e-12 * ratio  # one picojoule of Horowitz here
    add32, add8 = add(32), add(8)
    xnor = mul(2) / 4 + add32 / 32
    yield (
        "mac_i1xi1",
        xnor,
        xnor * 0.45,
        xnor * 3.6,
        (
            "assumed: a quarter of the 2-bit multiply of Aladdin for one exclusive nor with its"
            " part of a tree of adders, and of one 32-bit add per word of 32 pairs; range: assumed"
        ),
    )
    yield "mac_u1xi1", xnor, xnor * 0.45, xnor * 3.6, "assumed as mac_i1xi1"
    yield (
        "mac_f16xf16",
        1.5 * h,
        1.5 * h,
        2.0 * h,
        "fp16 multiply and add of Horowitz, 1.1 + 0.4 pJ, scaled; high: with an fp32 add, 0.9 pJ",
    )
    yield (
        "mac_bf16xbf16",
        1.3 * h,
        1.1 * h,
        2.0 * h,
        (
            "assumed: between an 8-bit multiply and an fp32 add of Horowitz, 0.2 + 0.9 pJ, and"
            " mac_f16xf16, scaled; high as mac_f16xf16"
        ),
    )
    yield (
        "mac_f32xf32",
        4.6 * h,
        4.6 * h,
        9.2 * h,
        "fp32 multiply and add of Horowitz, 3.7 + 0.9 pJ, scaled; high: assumed twice",
    )
    yield (
        "dequantize",
        1.1 * h,
        0.55 * h,
        2.3 * h,
        (
            "assumed: one fp16 multiply of Horowitz, 1.1 pJ, scaled, for conversion and scale; low:"
            " half of it; high: one vector_op"
        ),
    )
    yield (
        "rescale",
        4.6 * h,
        2.3 * h,
        9.2 * h,
        "assumed as vector_mac: one fp32 multiply and add",
    )
    yield (
        "vector_mac",
        4.6 * h,
        2.3 * h,
        9.2 * h,
        (
            "fp32 multiply and add of Horowitz, 3.7 + 0.9 pJ, scaled; range: assumed a factor of"
            " two, the library has no floating point"
        ),
    )
    yield (
        "vector_op",
        2.3 * h,
        0.9 * h,
        4.6 * h,
        (
            "mean of fp32 add and multiply of Horowitz, 0.9 and 3.7 pJ, scaled; low: one add; high:"
            " assumed twice the mean, for table look-ups"
        ),
    )
    yield (
        "core_cycle",
        70 * h,
        31 * h,
        140 * h,
        (
            "assumed: 70 pJ of Horowitz for one instruction of a simple in-order core at 45 nm with"
            " instruction cache, register file and control, scaled, one per cycle; low: instruction"
            " cache and register file alone, 25 + 6 pJ, scaled; high: twice the value, for a core"
            " that issues two"
        ),
    )
    yield (
        "index_decode",
        add32,
        add8,
        2 * add32,
        (
            "assumed as a 32-bit add of Aladdin: an index becomes an address; low: an 8-bit add;"
            " high: two adds"
        ),
    )
    yield (
        "gather",
        add32,
        add8,
        4 * add32,
        (
            "assumed as a 32-bit add of Aladdin: a word of 8 bits through a crossbar of 32; low: an"
            " 8-bit add; high: four adds"
        ),
    )
    yield (
        "scatter",
        4 * add32,
        add32,
        16 * add32,
        "assumed four times gather: a sum has 32 bits",
    )
    yield (
        "gated_mac",
        (mul(8) + add32) / 10,
        0.0,
        add32,
        (
            "assumed: a tenth of mac_i8xi8, the partial sum still moves on; low: the clock stops,"
            " too; high: a 32-bit add"
        ),
    )
    yield (
        "select",
        add8,
        0.0,
        add32,
        (
            "assumed as an 8-bit add of Aladdin: a multiplexer of 4 words of 8 bits; high: a 32-bit"
            " add"
        ),
    )
    yield (
        "accumulate",
        add32,
        0.1 * h,
        add32,
        f"Aladdin 32-bit adder {at}: a partial sum that comes back is added; low: Horowitz, scaled",
    )
    yield (
        "register_bit",
        register,
        register / 3,
        register,
        f"Aladdin register {at}, one bit written; low: assumed a third, few bits toggle",
    )
    yield (
        "clock_bit",
        register / 4,
        0.0,
        register,
        (
            "assumed: a quarter of a register write for the clock pin of one flip-flop and its part"
            " of the tree, every cycle; low: part of register_bit; high: as a register write"
        ),
    )
    yield (
        "quantize_op",
        1.9 * h,
        0.6 * h,
        4.6 * h,
        (
            "assumed: mean of fp32 multiply of Horowitz, 3.7 pJ, and 32-bit add, 0.1 pJ, scaled:"
            " scale, then round and clip; low: fp16 multiply and add; high as vector_op"
        ),
    )
    yield (
        "host_op",
        1000 * 70 * h,
        100 * 31 * h,
        10000 * 140 * h,
        (
            "assumed: a core writes descriptors and registers for one op in 1,000 instructions of"
            " core_cycle each; range: 100 and 10,000 instructions at the range of core_cycle"
        ),
    )


def main() -> None:
    """Query what is not kept, write one file per node."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", type=Path, default=Path("component_library.json"))
    parser.add_argument(
        "--node",
        type=int,
        action="append",
        metavar="NM",
        choices=range(min(NODES), max(NODES) + 1),
        help="write this node, 7 to 65, and no shipped one (may be given again)",
    )
    options = parser.parse_args()
    kept: dict = {"versions": {}, "nodes": {}}
    if options.queries.exists():
        kept = json.loads(options.queries.read_text("utf-8"))
    asked = sorted({*NODES, *(options.node or ())}, reverse=True)
    if missing := [nm for nm in asked if str(nm) not in kept["nodes"]]:
        here = installed()
        if kept["nodes"] and kept["versions"] != here:
            sys.exit(f"{options.queries}: of {kept['versions']}; expected {here}, or another file")
        kept = {"versions": here, "nodes": kept["nodes"] | query(missing)}
        options.queries.write_text(json.dumps(kept), encoding="utf-8")
    found = {str(nm): kept["nodes"][str(nm)] for nm in asked}
    joules, changed = grow(found)

    def mac(nm: int) -> float:
        return found[str(nm)]["mul"]["8"][0] + found[str(nm)]["add"]["32"][0]

    options.out.mkdir(parents=True, exist_ok=True)
    for nm in options.node or NODES:
        leak = found[str(nm)]["mul"]["8"][2] / found["28"]["mul"]["8"][2]
        one, ratio = found[str(nm)], mac(nm) / mac(45)
        text = table(nm, one, joules, changed, ratio, leak, kept["versions"])
        (options.out / f"aladdin_cacti_{nm}nm.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
