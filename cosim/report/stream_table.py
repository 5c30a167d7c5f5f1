"""The table of a stream: times of its utterances, use of the chips, and energy."""

from collections.abc import Iterator, Mapping
from typing import Any

from cosim.report.numbers import percent, scaled
from cosim.report.terminal import open_console, print_table

SPREAD = ("mean", "p50", "p95", "p99", "max")


def print_stream(total: Mapping[str, Any]) -> None:
    """Print the totals of a stream; its single utterances are only in `--json`."""
    console = open_console()
    rate = "" if total["rate_hz"] is None else f" at {total['rate_hz']:g} /s, seed {total['seed']}"
    print_table(
        console,
        f"{total['chips']} x {total['hardware']}: {total['utterances']} utterances of "
        f"{total['run']}, {total['order']}; arrivals {total['arrivals']}{rate}",
        ("", *SPREAD),
        (
            (name, *(scaled(total[f"{name}_s"][key], "s") for key in SPREAD))
            for name in ("waiting", "service", "response")
        ),
    )
    offered = total["offered_load"]
    load = "" if offered is None else f", {percent(offered)} offered"
    lasts = ""
    if total["battery_wh"] is not None:
        lasts = f"; {total['battery_wh']:g} Wh last {total['battery_hours']:.3g} hours"
    use = (
        f"window {scaled(total['window_s'], 's')}: busy {percent(total['utilization'])}{load}, "
        f"idle {scaled(total['idle_s'], 's')}, {total['throughput_hz']:.3g} utterances/s, "
        f"{total['mean_present']:.3g} waiting or served on average"
    )
    energy = (
        f"energy {scaled(total['energy_j'], 'J')}: utterances "
        f"{scaled(total['busy_energy_j'], 'J')}, idle {scaled(total['idle_energy_j'], 'J')} "
        f"({scaled(total['idle_energy_low_j'], 'J')} to {scaled(total['idle_energy_high_j'], 'J')};"
        f" {_rest(total)})"
    )
    power = (
        f"power {scaled(total['power_w'], 'W')}, per hour {scaled(total['energy_per_hour_j'], 'J')}"
        f", per utterance {scaled(total['energy_per_utterance_j'], 'J')}{lasts}"
    )
    if total["co2_g_per_hour"] is not None:
        grams, intensity = scaled(total["co2_g_per_hour"], "g"), total["grid_g_per_kwh"]
        power += f"; {grams} CO2 per hour at {intensity:g} g/kWh"
    for line in (
        use,
        energy,
        *_idle(total),
        power,
        *(f"warning: {text}" for text in total["warnings"]),
    ):
        console.print(line, soft_wrap=True)


def _idle(total: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the joules without work go to."""
    parts = {
        name.removeprefix("idle_").replace("_", " "): joules
        for name, joules in total["energy_by_cause_j"].items()
        if not name.startswith("working_")
    }
    if total["idle_energy_j"]:
        yield "idle: " + ", ".join(f"{name} {scaled(one, 'J')}" for name, one in parts.items())


def _rest(total: Mapping[str, Any]) -> str:
    """Return what idle chips do."""
    if total["rest"] is None:
        return "nothing switched off"
    after, rested = scaled(total["rest_after_s"], "s"), scaled(total["rested_s"], "s")
    return f"{total['rest']} after {after} idle: {rested} at rest, {total['wakes']} wakes"
