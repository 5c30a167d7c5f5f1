"""Simulate what was executed: every utterance with its true shapes and its true decoding steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosim.artefact import Artefact
from cosim.calls import Caller
from cosim.chip import Chip
from cosim.energy_results import energy_totals
from cosim.evaluate import Transcript
from cosim.heat import heat_warnings, settled
from cosim.schedule import NOT_SIMULATED
from cosim.simulate import simulate_workloads
from cosim.totals import totals_of
from hwmodels.simulate import Reuse
from hwmodels.stats import RunStats, combine, row
from hwmodels.thermal import Thermal


@dataclass(frozen=True)
class SpeechRun:
    """The simulation of a set of utterances, one `RunStats` each, in order.

    `simulated_calls` were run through SimPy with `simpy_events` events in all; `reused_calls` were
    equal to one of them in work, addresses, chip and residency.
    """

    chip: Chip
    utterances: tuple[RunStats, ...]
    durations_s: tuple[float, ...]
    simulated_calls: int
    reused_calls: int
    simpy_events: int
    not_simulated: tuple[str, ...] = NOT_SIMULATED
    thermal: Thermal | None = None

    @property
    def whole(self) -> RunStats:
        """All utterances as one run."""
        return combine(self.utterances, name="all utterances")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the chip model wants to be known."""
        whole = self.whole
        heat = heat_warnings(self.chip, self.thermal)
        cores = self.chip.architecture.cores
        waiting: tuple[str, ...] = ()
        if cores.count > 1 and cores.split == "utterances":
            text = (
                f"{self.chip.name}: utterances come one at a time, so that {cores.count - 1} of "
                f"{cores.count} cores wait; cosim simulate --utterances runs several at once"
            )
            waiting = (text,)
        return (*whole.warnings, *heat, *waiting, *whole.notes, *whole.cycle_notes)

    @property
    def macs_per_second_of_audio(self) -> float:
        """Multiply-accumulates per second of real speech (padding is work, not speech)."""
        return self.whole.macs / sum(self.durations_s)

    def layer_rows(self) -> list[Mapping[str, object]]:
        """Return one row per op, summed over all calls."""
        return [row(layer) for layer in self.whole.layers]

    def utterance_row(self, index: int) -> dict[str, object]:
        """Return cycles, joules and bytes of one utterance."""
        stats = self.utterances[index]
        return {
            "cycles": stats.cycles.total,
            "seconds": stats.seconds,
            "energy_j": stats.energy_j,
            "dram_bytes": stats.traffic.dram,
            "macs": stats.macs,
        }

    def totals(self) -> dict[str, object]:
        """Return the `totals` of `run.json`."""
        joules = [stats.energy_j for stats in self.utterances]
        speech_s = sum(self.durations_s)
        return {
            **totals_of(self.whole, self.thermal, self.chip),
            **energy_totals(self.whole, self.chip),
            "simpy_events": self.simpy_events,
            "simulated_calls": self.simulated_calls,
            "reused_calls": self.reused_calls,
            "energy_per_utterance_j": {
                "mean": float(np.mean(joules)),
                "p50": float(np.percentile(joules, 50)),
                "p95": float(np.percentile(joules, 95)),
            },
            "energy_per_audio_second_j": sum(joules) / speech_s,
            "real_time_factor": self.whole.seconds / speech_s,
            "audio_seconds": speech_s,
        }


def simulate_speech(
    artefact: Artefact,
    chip: Chip,
    transcripts: Sequence[Transcript],
    advance: Callable[[], None],
    densities: Mapping[str, float] | None = None,
) -> SpeechRun:
    """Return the simulation of every transcript's utterance with the steps it took.

    On a chip with a thermal stack the utterances are taken as work without a pause, see `settled`.
    `densities` of activations are those of `Caller`.
    """
    caller = Caller(artefact, densities or {})
    calls = [caller.utterance(item.duration_s, item.widths) for item in transcripts]
    runs: list[SpeechRun] = []

    def run(own: Chip) -> SpeechRun:
        reuse, found = Reuse(), []
        for transcript, work in zip(transcripts, calls, strict=True):
            found.append(simulate_workloads(work, own, transcript.id, reuse))
            if not runs:
                advance()
        runs.append(
            SpeechRun(
                own,
                tuple(found),
                tuple(item.duration_s for item in transcripts),
                simulated_calls=reuse.misses,
                reused_calls=reuse.hits,
                simpy_events=sum(stats.simpy_events for stats, _ in reuse.results.values()),
            )
        )
        return runs[-1]

    found, thermal = settled(chip, run, lambda result: result.whole)
    return replace(found, thermal=thermal)
