"""A run, or a simulation alone, for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cosim.report.energy_table import energy_lines
from cosim.report.numbers import percent, scaled
from cosim.report.terminal import open_console, print_table

LIMITED_BY = {
    "bus": "it moves data",
    "tCCD_L": "columns of one bank group follow each other",
    "turnaround": "it turns between reads and writes",
    "tRCD": "rows open",
    "tRRD": "a row opens soon after another",
    "tFAW": "four rows opened within the window",
    "tRC": "a bank opens row after row",
    "refresh": "banks are refreshed",
    "command_bus": "commands wait for their bus",
    "queue": "the controller serves others first",
    "demand": "the memory waits for requests",
}
"""What data buses do or wait for, in words, by the names of `hwmodels.dram.commands.LIMITS`."""

ROWS = ("hits", "misses", "conflicts")
MEMORY_ENERGY = {
    "read_burst": "read",
    "write_burst": "write",
    "refresh_rank": "refresh",
    "refresh_bank": "refresh",
    "open_tick": "background",
    "closed_tick": "background",
    "via_bit": "vias",
    "io_bit": "I/O",
}
"""What joules of a memory behind the controller go to, where that is not the name of the action."""


def print_run(document: Mapping[str, Any], folder: Path) -> None:
    """Print the table of a run: accuracy by engine, then cycles, energy and bandwidth."""
    console = open_console()
    accuracy, totals, model = document["accuracy"], document["totals"], document["model"]
    compression, hardware = document["compression"], document["hardware"]
    console.print(
        f"{model['name']}: {scaled(model['parameters'])} parameters, "
        f"{scaled(model['size_bytes'], 'B')} fp32 -> {scaled(compression['size_bytes'], 'B')} "
        f"({compression['recipe']}, {compression['mean_bits']:.2f} bits a weight)\n"
        f"weights: {model['source']}",
        soft_wrap=True,
    )
    _print_accuracy(console, document["speech"]["name"], accuracy)
    print_table(
        console,
        f"\n{hardware['name']} at {scaled(hardware['clock_hz'], 'Hz')}, all utterances",
        ("layer kind", "cycles", "share", "MACs", "utilisation", "energy", "DRAM"),
        (
            (
                str(row["kind"]),
                scaled(row["cycles"]),
                percent(row["cycles"] / totals["cycles"] if totals["cycles"] else 0.0),
                scaled(row["macs"]),
                percent(row["array_utilization"]),
                scaled(row["energy_j"], "J"),
                scaled(row["dram_bytes"], "B"),
            )
            for row in totals["by_kind"]
        ),
    )
    _print_totals(console, totals)
    for warning in document["warnings"]:
        console.print(f"warning: {warning}", soft_wrap=True)
    if document["not_simulated"]:
        console.print(f"not simulated: {', '.join(document['not_simulated'])}", soft_wrap=True)
    console.print(f"run folder: {folder}", soft_wrap=True)


def print_simulation(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> None:
    """Print cycles per layer and the totals; fused work that costs no cycle is only in `--json`."""
    console = open_console()
    shown = [row for row in rows if row["cycles"] or row["dram_read_bytes"]]
    print_table(
        console,
        f"{total['hardware']}: {total['work']}",
        ("layer", "unit", "cycles", "bound", "MACs", "utilisation", "DRAM"),
        (
            (
                str(row["name"]),
                str(row["unit"]),
                *(scaled(row[key]) for key in ("cycles", "bound_cycles", "macs")),
                percent(row["utilization"]),
                scaled(row["dram_read_bytes"] + row["dram_write_bytes"], "B"),
            )
            for row in shown
        ),
    )
    _print_totals(console, total)
    for warning in total["warnings"]:
        console.print(f"warning: {warning}", soft_wrap=True)


def _print_accuracy(console: Console, speech: str, accuracy: Mapping[str, Any]) -> None:
    """Print the WER of each engine, or why there is none."""
    if accuracy["wer"] is None and accuracy["words"] is None:
        console.print(
            f"\n{speech}: {accuracy['utterances']} utterances; WER {accuracy['note']}",
            soft_wrap=True,
        )
        return
    print_table(
        console,
        f"\n{speech}: WER on {accuracy['utterances']} utterances, "
        f"{accuracy['words']} words "
        f"({accuracy['normalizer']})",
        ("engine", "WER", "sub", "ins", "del", "same text as torch"),
        (
            (
                str(row["engine"]),
                percent(row["wer"]),
                str(row["substitutions"]),
                str(row["insertions"]),
                str(row["deletions"]),
                percent(row["same_text_as_baseline"]),
            )
            for row in accuracy["engines"]
        ),
    )
    interval = accuracy["wer_difference_interval"]
    console.print(
        f"WER difference to {accuracy['baseline']['engine']}, 95 % paired bootstrap: "
        + _points(interval)
        + f"; {accuracy['hit_limit']} utterances hit the step limit",
        soft_wrap=True,
    )


def _points(interval: Sequence[float] | None) -> str:
    if interval is None:
        return "not measured"
    low, high = (100 * bound for bound in interval)
    return f"{low:+.2f} to {high:+.2f} points"


def _print_totals(console: Console, totals: Mapping[str, Any]) -> None:
    cycles = totals["cycles"]
    parts = ", ".join(
        f"{name} {percent(value / cycles)}"
        for name, value in totals["cycles_by_category"].items()
        if value
    )
    factor = totals["real_time_factor"]
    energy = (
        f"energy {scaled(totals['energy_j'], 'J')} "
        f"({scaled(totals['energy_low_j'], 'J')} to {scaled(totals['energy_high_j'], 'J')}; "
        f"{percent(totals['energy_assumed_fraction'])} of it from figures that are assumed)"
    )
    if per := totals.get("energy_per_utterance_j"):
        energy += (
            f"; per utterance mean {scaled(per['mean'], 'J')}, p50 {scaled(per['p50'], 'J')}, "
            f"p95 {scaled(per['p95'], 'J')}; per second of audio "
            f"{scaled(totals['energy_per_audio_second_j'], 'J')}"
        )
    peak = totals["peak_bandwidth_fraction"]
    cost = f"cycles {scaled(cycles, digits=4)} ({parts})"
    cost += f"; lower bound {scaled(totals['bound_cycles'], digits=4)}"
    if totals.get("convention_cycles") is not None:
        counted = scaled(totals["convention_cycles"], digits=4)
        cost += f"; {totals['convention']} counts {counted} on the array, without stalls"
    time = f"time {scaled(totals['seconds'], 's')}"
    time += "" if factor is None else f", real-time factor {factor:.3g}"
    share = "no peak" if peak is None else f"{percent(peak)} of peak"
    moved = (
        f"DRAM {scaled(totals['dram_bytes'], 'B')}, "
        f"{scaled(totals['bandwidth_bytes_per_s'], 'B/s')} ({share}), "
        f"array utilisation {percent(totals['array_utilization'])}, "
        f"{totals['simpy_events']} events"
    )
    if "reused_calls" in totals:
        moved += (
            f" in {totals['simulated_calls']} calls, {totals['reused_calls']} calls equal to them"
        )
    for line in (cost, time, energy, *energy_lines(totals), moved):
        console.print(line, soft_wrap=True)
    if cores := totals.get("cores"):
        console.print(_cores_line(cores, totals), soft_wrap=True)
    if found := totals.get("memory"):
        console.print(_memory_line(found), soft_wrap=True)
        console.print(_traffic_line(found["requesters"], totals["energy_rows"]), soft_wrap=True)
    if "thermal" in totals:
        console.print(_thermal_line(totals["thermal"]), soft_wrap=True)


def _traffic_line(
    requesters: Mapping[str, Mapping[str, Any]], energy_rows: Sequence[Mapping[str, Any]]
) -> str:
    """Return who moved how much and stalled for how long, and what the memory's joules went to."""
    moved = ", ".join(
        f"{name} {scaled(one['read_bytes'] + one['write_bytes'], 'B')} "
        f"(stalls {scaled(one['stall_cycles'])} cycles)"
        for name, one in requesters.items()
    )
    spent: dict[str, float] = {}
    for row in energy_rows:
        if row["component"] == "memory":
            name = MEMORY_ENERGY.get(row["action"], row["action"])
            spent[name] = spent.get(name, 0.0) + row["energy_j"]
    whole = sum(spent.values())
    parts = ", ".join(f"{name} {percent(part / whole)}" for name, part in spent.items() if part)
    return f"requesters: {moved}; memory energy {scaled(whole, 'J')}: {parts}"


def _thermal_line(found: Mapping[str, Any] | None) -> str:
    """Return how hot the stack gets, and how often it is refreshed for that."""
    if found is None:
        return "temperature not modelled: the chip names no memory.thermal"
    nodes = found["temperatures_c"]
    swing = ", one rate lower would be too hot" if found["is_alternating"] else ""
    return (
        f"working without a pause: DRAM {found['dram_c']:.1f} C, logic {nodes['logic']:.1f} C "
        f"(ambient {found['ambient_c']:.0f} C), refresh x{found['refresh_multiplier']}{swing}"
    )


def _cores_line(cores: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> str:
    """Return how much of the time the cores work, and how much faster than one they are."""
    busy = ", ".join(percent(core["busy_cycles"] / totals["cycles"]) for core in cores)
    line = f"{len(cores)} cores on one memory, busy {busy}"
    if "speed_up" in totals:
        line += (
            f"; {totals['speed_up']:.2f} times as fast as one of them, "
            f"efficiency {percent(totals['core_efficiency'])}"
        )
    if turns := totals.get("utterances"):
        line += f"; {len(turns) / totals['seconds']:.3g} utterances/s"
    return line


def _memory_line(found: Mapping[str, Any]) -> str:
    """Return what limited the memory behind the controller, its rows and its latency."""
    most = sorted(found["limits"].items(), key=lambda pair: -pair[1])
    buses = ", ".join(f"{name} {percent(share)}" for name, share in most[:4] if share)
    number = sum(found[f"row_{name}"] for name in ROWS)
    rows = ", ".join(f"{percent(found[f'row_{name}'] / max(1, number))} {name}" for name in ROWS)
    times = {name: value for name, value in found["read_latency_s"].items() if value is not None}
    latency = ", ".join(f"{name} {scaled(value, 's')}" for name, value in times.items())
    limit = found["binding_limit"]
    line = (
        f"{found['name']} ({found['policy']}), limited by {limit} ({LIMITED_BY[limit]}); "
        f"data buses: {buses}; rows: {rows}; "
        f"read latency {latency or 'none'}"
    )
    if part := found.get("sampling"):
        line += (
            f"; sampled: {percent(part['exact_share'])} of the traffic served by the controller, "
            f"standard errors {part['cycles_error']:.0f} cycles, "
            f"{scaled(part['energy_error_j'], 'J')}"
        )
    return line
