"""docs/memory.md: memories beside published simulators and what changes them, from bench rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cosim.report.markdown import bullets, table
from cosim.report.models_markdown import machine_line
from cosim.report.numbers import percent, scaled

Row = Mapping[str, Any]
_PAGE = """# Memory: what decides its bandwidth

Written by `cosim bench --filter memory --rounds {rounds} --markdown docs/memory.md`.

The cycle-accurate controller of `hwmodels.dram` under traces of {count:,} requests, one burst each.
They are offered in order; one that its channel refuses keeps the others waiting. `SR` and `SW` read
and write one burst after another, `RR`, `RW` and `RM` read, write and mix at random, `MIX` takes
turns among three streams, `S256` and `S4096` read every 256 and every 4096 bytes. A load such as
`SR-0.3` offers that share of the peak; others are offered as fast as they are accepted. Figures
leave out the first tenth; latencies are those of reads.

{machine}
"""
_REFERENCE = """## Beside published simulators

Every memory is under the policy that follows the rules of the simulator named. Each cell holds our
figure, then in brackets the simulator's, as printed, and the difference; what it did not report is
empty. The figures are in `configs/memory/reference`.

Under `ramulator2` three rules of Ramulator 2.1 give way. Requests to one address keep their order:
a write waits for an older read, a read for a write whose row is already opened for it. REF of all
banks comes tRPab after PRE of all banks, not tRP; where a memory states tRPab it is compared
without it. A write does not meet the data of a read from another rank on their bus.
"""
_USE = """## In a chip

A chip whose memory has `fidelity: exact` and a `timing` file runs on this controller. A product
that the memory bounds, as a list `layers.csv`:

```csv
{work}```

`{chip}` with its map set on the command line, which its file could state as well:

```console
$ cosim simulate layers.csv --hardware configs/hardware/{chip}.yaml \\
    {settings} \\
    --set "memory.address_map=row bank bank_group pseudo_channel column channel"
```

A map lists the fields of an address from the most significant to the least; widths follow from the
organisation. `column:2` puts two bits of a field apart, `channel^bank^row` replaces the channel by
its XOR with all bits of bank and row. Channels that are no power of two divide the address, and a
hash of theirs adds instead.
"""
_INTRO: Mapping[str, str] = {
    "maps": "## Address maps\n\n{memory}, policy `{policy}`. Share of the peak of {peak}, and what "
    "kept the data buses idle most of the rest of the time.",
    "channels": "## Channels that are no power of two\n\n{memory}, policy `{policy}`; share of the "
    "peak of so many channels. A stride that shares a factor with their number leaves some idle.",
    "windows": "## The window of four ACT (tFAW)\n\nRandom requests open a row each.",
    "refresh": "## Refresh\n\nMore often in tREFI as a stack above 85 and above 95 degrees needs "
    "it, or bank by bank. Energy is that of the core, without vias and pins.",
    "queues": "## Queues\n\nReads that a channel holds, without refresh. A stream needs as many as "
    "it moves from PRE to the data of the row after it, on all buses of the channel; policy "
    "`ramulator2_deep` has 128. Where a stack id or rank changes within a stream the bus has a "
    "gap, unless that is the highest field of the map. Shares are of what is accepted, so that a "
    "filling queue may show a little more than the peak.",
}
_EFFICIENCY = """## The roofline at shares that were measured

The roofline takes the share of the peak that its memory file states for a long stream. With
`memory.fidelity=roofline` and `memory.efficiency=configs/memory/efficiency/controller.yaml` it
takes the one that this controller reached, in eight tREFI or more, with descriptors of the same
kind: streams, single bursts at random, and 256 rows of 64 to 1,024 bytes that begin 1,536 to 4,096
bytes apart. Bursts go to the data buses that the address map names, tCCD_L apart where a bank group
follows itself, and shares are of the time that the busiest of these buses needs so at least: of a
stream, of the whole peak. Read / written / both in turns, streams after every 16 KiB; where the
ways turn a descriptor loses the time that those measured lost. The table is written by
`cosim bench --filter memory/efficiency --efficiency PATH`.
"""
_SPEED = """## Speed

Bursts per second of CPU time on one thread, and how many times faster that is than the same
controller when it visits every tick; median of {rounds} rounds in turns.
"""
_ENERGY = ("activate", "read", "write", "refresh", "rest", "total")


def memory_markdown(rows: Iterable[Row], total: Row) -> str:
    """Return the page as Markdown: references, use, a section per change, speed."""
    known = list(rows)
    lines = [_PAGE.format(machine=machine_line(total), **total).rstrip()]
    compared = [row for row in known if row["kind"] == "reference"]
    if compared:
        lines += ["", _REFERENCE.rstrip(), *_references(compared)]
    chips = [row for row in known if row["kind"] == "chip"]
    if chips:
        lines += _chips(chips)
    changed = [row for row in known if row["kind"] == "what_if"]
    for name in dict.fromkeys(str(row["table"]) for row in changed):
        lines += _change([row for row in changed if row["table"] == name], name)
    shares = [row for row in known if row["kind"] == "efficiency"]
    if shares:
        lines += ["", _EFFICIENCY.format(**shares[0]).rstrip(), "", *_efficiencies(shares)]
    timed = [row for row in known if row["kind"] == "speed"]
    if timed:
        lines += ["", _SPEED.format(**total).rstrip(), "", *_speeds(timed)]
    return "\n".join(lines) + "\n"


def _references(rows: Sequence[Row]) -> Iterator[str]:
    for memory, rules in dict.fromkeys((row["memory"], row["policy"]) for row in rows):
        found = [row for row in rows if (row["memory"], row["policy"]) == (memory, rules)]
        yield from ("", f"### {memory}, `{rules}`", "", f"{found[0]['source']}.")
        if found[0]["leaves_out"]:
            yield f"Compared without {', '.join(found[0]['leaves_out'])}, which it does not obey."
        yield from _worst(found)
        for columns in (_TRACE, _CORE):
            chosen = [row for row in found if row["quantity"] in columns]
            if chosen:
                yield from ("", *_wide(chosen, columns))
        rest = [row for row in found if row["quantity"] not in {*_TRACE, *_CORE}]
        if rest:
            yield from (
                "",
                *table(
                    ("quantity", "here", "simulator", "difference"),
                    (
                        (
                            f"{row['quantity']} ({row['unit']})",
                            _number(row["ours"]),
                            _number(row["reference"]),
                            _difference(row),
                        )
                        for row in rest
                    ),
                ),
            )


_TRACE: Mapping[str, str] = {
    "share_of_peak": "share of peak",
    "mean_ns": "mean ns",
    "p99_ns": "p99 ns",
    "row_hit_rate": "row hits",
}
_CORE: Mapping[str, str] = {f"{part}_pj_per_bit": f"{part} pJ/bit" for part in _ENERGY}


def _wide(rows: Sequence[Row], columns: Mapping[str, str]) -> list[str]:
    """Return a table with a row per trace and a column per quantity that any of them has."""
    names = [name for name in columns if any(row["quantity"] == name for row in rows)]
    cells = {(row["trace"], row["quantity"]): _cell(row) for row in rows}
    traces = dict.fromkeys(str(row["trace"]) for row in rows)
    return table(
        ("trace", *(columns[name] for name in names)),
        ((trace, *(cells.get((trace, name), "") for name in names)) for trace in traces),
    )


def _worst(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the largest difference of every kind of figure."""
    groups = {
        "bandwidth": ("share_of_peak",),
        "mean latency": ("mean_ns",),
        "p99 latency": ("p99_ns",),
        "energy": tuple(_CORE),
    }
    told = []
    for name, quantities in groups.items():
        found = [
            abs(row["difference"])
            for row in rows
            if row["quantity"] in quantities and row["difference"] is not None
        ]
        if found:
            told.append(f"{name} {percent(max(found))}")
    if told:
        yield from ("", f"Largest differences: {', '.join(told)}.")


def _cell(row: Row) -> str:
    return f"{_number(row['ours'])} ({_number(row['reference'])}, {_difference(row)})"


def _difference(row: Row) -> str:
    """Return the relative difference; that of two rates where the simulator's is nothing."""
    if row["difference"] is None:
        return f"{row['ours'] - row['reference']:+.4f}"
    return f"{100 * row['difference']:+.2f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10_000 else f"{value:.4g}"


def _chips(rows: Sequence[Row]) -> Iterator[str]:
    first = rows[0]
    settings = " ".join(f"--set {one}" for one in first["settings"])
    yield from ("", _USE.format(**{**first, "settings": settings}).rstrip(), "")
    yield from table(
        ("map", "share of peak", "cycles", "energy", "data buses", "read latency"),
        (
            (
                str(row["change"]),
                percent(row["share_of_peak"]),
                f"{row['cycles']:,}",
                scaled(row["energy_j"], "J"),
                _limits(row["memory"]["limits"]),
                scaled(row["memory"]["read_latency_s"]["mean"], "s"),
            )
            for row in rows
        ),
    )


def _limits(limits: Mapping[str, float]) -> str:
    """Return what the data buses did and waited for, the three largest shares."""
    largest = sorted(limits.items(), key=lambda one: -one[1])[:3]
    return ", ".join(f"{name} {percent(share)}" for name, share in largest)


def _change(rows: Sequence[Row], name: str) -> Iterator[str]:
    first = rows[0]
    peak = scaled(first["bytes_per_s"] / first["share_of_peak"], "B/s")
    yield from ("", _INTRO[name].format(peak=peak, **first), "")
    traces = list(dict.fromkeys(str(row["trace"]) for row in rows))
    has_energy = name == "refresh"
    memories = {str(row["memory"]) for row in rows}
    energy = [f"{trace} pJ/bit" for trace in traces] if has_energy else []
    body = []
    for case in dict.fromkeys(str(row["case"]) for row in rows):
        found = {str(row["trace"]): row for row in rows if row["case"] == case}
        one = next(iter(found.values()))
        where = f"{one['memory']}, " if len(memories) > 1 else ""
        body.append(
            (
                f"{where}{one['change']}",
                *(_share(found[trace]) for trace in traces),
                *(f"{found[trace]['core_pj_per_bit']:.3f}" for trace in traces if has_energy),
            )
        )
    yield from table(("change", *traces, *energy), body)
    if name in ("maps", "channels"):
        used = dict.fromkeys((str(row["change"]), str(row["address_map"])) for row in rows)
        shown = used if name == "maps" else ()
        yield from ("", *bullets(f"{change}: `{text}`" for change, text in shown)) if shown else ()


def _share(row: Row) -> str:
    """Return the share of the peak and the limit that took most of the rest."""
    idle = {name: part for name, part in row["limits"].items() if name != "bus"}
    worst = max(idle, key=lambda name: idle[name])
    if idle[worst] < 0.01:
        return f"{100 * row['share_of_peak']:.2f} %"
    return f"{100 * row['share_of_peak']:.2f} % ({worst})"


def _efficiencies(rows: Sequence[Row]) -> list[str]:
    """Return a table with a row per memory and policy, a column per kind of descriptor."""
    patterns = list(dict.fromkeys(str(row["pattern"]) for row in rows))
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found = cells.setdefault((row["case"], row["pattern"]), [])
        found.append(f"{100 * row['share_of_buses']:.1f}")
    named = {row["case"]: f"{row['memory']}, `{row['policy']}`" for row in rows}
    return table(
        ("memory, policy", *(f"{name.replace('_', ' of ')} %" for name in patterns)),
        (
            (what, *(" / ".join(cells[case, name]) for name in patterns))
            for case, what in named.items()
        ),
    )


def _speeds(rows: Sequence[Row]) -> list[str]:
    labels = [key[len("skipping_") :] for key in rows[0] if key.startswith("skipping_")]
    return table(
        (
            "memory, policy",
            "burst",
            *(f"{label} M/s" for label in labels),
            *(f"{label} over every tick" for label in labels),
        ),
        (
            (
                f"{row['memory']}, `{row['policy']}`",
                f"{row['burst_bytes']} B",
                *(f"{row[f'bursts_per_s_{label}'] / 1e6:.2f}" for label in labels),
                *(f"{row[f'skipping_{label}']:.2f}" for label in labels),
            )
            for row in rows
        ),
    )
