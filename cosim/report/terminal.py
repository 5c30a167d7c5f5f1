"""Tables and progress on the terminal: results go to stdout, progress and warnings to stderr."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.artefact import WEIGHTS, Artefact, header_bytes
from cosim.dispatch import Dispatch
from kernels import COMPILE_LISTENERS

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"))
_SMALLEST = ((1e-9, "n"), (1e-12, "p"))


def scaled(value: float | None, unit: str = "", *, digits: int = 3) -> str:
    """Return a number with an SI prefix; `not measured` for None.

    Example:
        >>> scaled(20_238_336_000, "MAC")
        '20.2 GMAC'
        >>> scaled(0.00125, "J")
        '1.25 mJ'
        >>> scaled(None)
        'not measured'

    """
    if value is None:
        return "not measured"
    for size, prefix in (*_PREFIXES, *_SMALLEST):
        if abs(value) >= size:
            return f"{value / size:.{digits}g} {prefix}{unit}".strip()
    return f"{value:.{digits}g} {unit}".strip()


def percent(value: float | None) -> str:
    """Return a fraction as a percentage; `not measured` for None."""
    return "not measured" if value is None else f"{100 * value:.2f} %"


class TerminalProgress:
    """Progress of a run on stderr: a bar on a terminal, one line per stage elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.done, self.total, self.title = 0, 0, ""
        self.told_of_compiling = False

    def __enter__(self) -> Self:
        self.bars.start()
        COMPILE_LISTENERS.append(self._compiling)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        COMPILE_LISTENERS.remove(self._compiling)
        self.bars.stop()

    def _compiling(self, _function: str) -> None:
        if not self.told_of_compiling:
            self.told_of_compiling = True
            self.note("compiling kernels for this CPU: up to a minute, then kept for later runs")

    def stage(self, text: str, total: int = 0) -> None:
        """Begin a stage of `total` pieces (0: unknown)."""
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task = self.bars.add_task(text, total=total or None)
        self.done, self.total, self.title = 0, total, text
        if not self.console.is_terminal:
            self.console.print(text + (f" ({total})" if total else ""), soft_wrap=True)

    def advance(self) -> None:
        """Say that one piece is finished."""
        self.done += 1
        if self.task is not None:
            self.bars.advance(self.task)
        tenth = max(1, self.total // 5)
        if not self.console.is_terminal and self.done % tenth == 0:
            self.console.print(f"  {self.title}: {self.done}/{self.total}", soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self.console.print(text, soft_wrap=True)


def open_console() -> Console:
    """Return the console of results."""
    # tables keep their natural width; a narrower terminal wraps lines by itself
    return Console(highlight=False, width=400)


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Print a table under its title: the first column to the left, the others to the right."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)


def _points(interval: Sequence[float] | None) -> str:
    if interval is None:
        return "not measured"
    low, high = (100 * bound for bound in interval)
    return f"{low:+.2f} to {high:+.2f} points"


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


def _print_totals(console: Console, totals: Mapping[str, Any]) -> None:
    from cosim.report.energy_table import energy_lines  # noqa: PLC0415 (it formats as this does)

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
        f"{totals['simpy_events']} SimPy events"
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
    if hot := totals.get("thermal"):
        console.print(_thermal_line(hot), soft_wrap=True)


def _thermal_line(found: Mapping[str, Any]) -> str:
    """Return how hot the stack gets, and how often it is refreshed for that."""
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
    rows = found["row_hits"] + found["row_misses"] + found["row_conflicts"]
    hits = percent(found["row_hits"] / max(1, rows))
    times = {name: value for name, value in found["read_latency_s"].items() if value is not None}
    latency = ", ".join(f"{name} {scaled(value, 's')}" for name, value in times.items())
    line = (
        f"{found['name']} ({found['policy']}), limit {found['binding_limit']}; "
        f"data buses: {buses}; rows: {hits} hits, {found['row_conflicts']} conflicts; "
        f"read latency {latency or 'none'}"
    )
    if part := found.get("sampling"):
        line += (
            f"; sampled: {percent(part['exact_share'])} of the traffic served by the controller, "
            f"standard errors {part['cycles_error']:.0f} cycles, "
            f"{scaled(part['energy_error_j'], 'J')}"
        )
    return line


def print_artefact(artefact: Artefact, folder: Path) -> None:
    """Print what a recipe made of a model."""
    done, header = artefact.compression, header_bytes(artefact)
    open_console().print(
        f"{artefact.model.name}: {scaled(artefact.model.size_bytes, 'B')} -> "
        f"{scaled(done.size_bytes, 'B')} ({_zipped(done.zipped_bytes)}), "
        f"{done.mean_bits:.2f} bits a weight, {percent(done.sparsity)} zeros\n"
        + "".join(f"note: {note}\n" for note in done.notes)
        + f"{WEIGHTS}: {done.size_bytes + header} bytes, {done.size_bytes} of tensors and {header} "
        f"of header\nprogram {artefact.program.hash[:16]} in {folder}",
        soft_wrap=True,
    )


def _zipped(size: int | None) -> str:
    return "zipped: not measured" if size is None else f"{scaled(size, 'B')} zipped"


def print_evaluation(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> None:
    """Print the WER of an artefact."""
    worst = sorted(rows, key=lambda row: -int(row["errors"] or 0))[:5]
    console = open_console()
    console.print(
        f"{total['speech']}: "
        f"WER {percent(total['wer'])} on {total['utterances']} utterances, {total['words']} words "
        f"({total['normalizer']}); S/I/D {total['substitutions']}/{total['insertions']}/"
        f"{total['deletions']}; {total['hit_limit']} hit the step limit; "
        f"{total['skipped']} recordings skipped",
        soft_wrap=True,
    )
    for row in worst:
        if row["errors"]:
            console.print(f"{row['errors']} errors in {row['id']}: {row['text']}", soft_wrap=True)


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


def print_comparison(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print runs side by side, as ratios to the first."""
    print_table(
        open_console(),
        "against the first run: ratios below 1 are cheaper",
        (
            *("run", "WER", "difference (95 % interval)", "cycles", "energy"),
            *("shared figures wrong alike", "each apart", "DRAM", "size"),
        ),
        (
            (
                str(row["run"]),
                percent(row["wer"]),
                str(row["wer_difference_text"]),
                _share(row["cycles_ratio"]),
                _share(row["energy_ratio"]),
                _span(row["energy_ratio_interval"]),
                _span(row["energy_ratio_interval_apart"]),
                _share(row["dram_ratio"]),
                _share(row["size_ratio"]),
            )
            for row in rows
        ),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def print_bench(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> None:
    """Print speed ratios, above 1 ours is faster; then peers, and what was not measured."""
    console = open_console()
    load = ", ".join(f"{value:.2f}" for value in total["load_average"])
    console.print(f"{total['cpu']}, load {load}, {total['rounds']} rounds", soft_wrap=True)
    if "peaks" in total:
        console.print(
            "limits of one core: "
            + ", ".join(f"{name} {scaled(peak['rate'])}" for name, peak in total["peaks"].items()),
            soft_wrap=True,
        )
    clock = "CPU time" if total["threads"] == 1 else "wall time"
    timed = [row for row in rows if "cycles_per_second" not in row]  # simulators have their own
    if timed:
        print_table(
            console,
            f"{total['threads']} thread(s), {clock}, sides alternating; above 1 ours is faster",
            (
                *("case", "vs torch", "95 %", "vs numpy", "quantising too", "of limit", "limit"),
                *("GOP/s", "error"),
            ),
            (
                (
                    row.get("case") or f"{row['kernel']}/{row['shape']}",
                    shown(row["ratio_torch"]),
                    interval(row.get("ratio_torch_interval")),
                    shown(row["ratio_numpy"]),
                    shown(row.get("ratio_torch_quantizing")),
                    shown(row["share_of_limit"], ".0%"),
                    row.get("limit") or "-",
                    shown(row["gops"], ".0f"),
                    shown(row.get("error"), ".2g"),
                )
                for row in timed
            ),
        )
    peers = [
        (
            row.get("case") or f"{row['kernel']}/{row['shape']}",
            name,
            shown(peer["ratio_torch"]),
            shown(peer["ratio_ours"]),
            shown(peer.get("error"), ".2g"),
        )
        for row in timed
        for name, peer in row.get("peers", {}).items()
        if name not in {"torch", "numpy"} and not name.startswith("ours")
    ]
    if peers:
        columns = ("case", "peer", "peer vs torch", "ours vs peer", "error")
        print_table(console, "\npeers", columns, peers)
    for note in notes_of(rows, total):
        console.print(note, soft_wrap=True)


def notes_of(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> list[str]:
    """Return what was left out of a benchmark and why, cases of one reason together."""
    cases: dict[str, list[str]] = {}
    for row in rows:
        for note in row.get("notes", ()):
            cases.setdefault(str(note), []).append(str(row["case"]))
    for kind in ("skipped", "failed"):
        for one in total.get(kind, ()):
            cases.setdefault(f"{kind}: {one['note']}", []).append(str(one["case"]))
    return [
        f"{note} ({found[0] if len(found) == 1 else f'{len(found)} cases, the first {found[0]}'})"
        for note, found in cases.items()
    ]


def shown(value: float | None, text: str = ".2f") -> str:
    """Return a number in a format, `-` for None."""
    return "-" if value is None else format(value, text)


def interval(found: Sequence[float] | None) -> str:
    """Return `low-high`, `-` for None; with a coverage below 95 % that is said."""
    if found is None:
        return "-"
    low, high, coverage = found
    weak = "" if coverage >= 0.95 else f" ({coverage:.0%})"
    return f"{low:.2f}-{high:.2f}{weak}"


def print_dispatch(found: Dispatch, path: Path) -> None:
    """Print how many times each stored form is as fast as dense float weights, by density."""
    densities = sorted({density for row in found.table for density in row.densities})
    print_table(
        open_console(),
        f"{found.cpu}: speed relative to dense float weights, by share of weights kept",
        ("form", "activations", "rows", *(f"{density:g}" for density in densities)),
        (
            (
                row.values,
                row.activation,
                str(row.rows),
                *(
                    shown(dict(zip(row.densities, row.speeds, strict=True)).get(density))
                    for density in densities
                ),
            )
            for row in found.table
        ),
    )
    open_console().print(f"kept in {path}", soft_wrap=True)
