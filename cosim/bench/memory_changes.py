"""What bandwidth, latency and energy become when one thing about a memory changes.

Maps, channels, tFAW, refresh, queues: a table each, of traces on a shipped memory before and after.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.bench.measure import Row
from cosim.bench.memory import COUNT, Subject, core_pj_per_bit, measured, subject
from cosim.bench.memory_traces import make_trace
from hwmodels.dram.controller import Controller, Trace, simulate
from hwmodels.dram.fields import hashes
from hwmodels.dram.policy import policy
from hwmodels.dram.spec import Timing
from kernels import harness

SHIPPED = "as shipped"
INTERLEAVED = "row bank column bank_group pseudo_channel channel"
SPREAD = "row bank column bank_group pseudo_channel^column channel^column^bank^row"
MAPS: Mapping[str, str] = {
    "neighbours in other channels and bank groups": INTERLEAVED,
    "columns of a bank first": "row bank bank_group pseudo_channel column channel",
    "columns of two pseudo-channels first": "row bank bank_group column pseudo_channel channel",
    "one channel after another": "channel row bank column bank_group pseudo_channel",
    "one bank after another": "bank row column bank_group pseudo_channel channel",
    "channel hashed": "row bank column bank_group pseudo_channel channel^column^bank^row",
    "channel and pseudo-channel hashed": SPREAD,
    "bank groups and banks hashed too": (
        "row bank^row column bank_group^row pseudo_channel^column channel^column"
    ),
}
MAP_TRACES = ("SR", "SW", "MIX", "RR", "S256", "S4096")
SPEEDS = (
    ("hbm2_2000", "ramulator2"),
    ("ddr4_3200", "ramulator2"),
    ("hbm3_6400", "ramulator2"),
    ("hbm4_8000", "ramulator2"),
    ("hbm2_2000_legacy", "dramsim3"),
)


@dataclass(frozen=True)
class Change:
    """A memory and policy as changed, the traces to try, and which table it is a row of.

    `least` requests make a trace that comes back to open banks, where that matters.
    """

    table: str
    name: str
    subject: Subject
    traces: tuple[str, ...]
    refresh_rate: int = 1
    least: int = 0

    @property
    def case(self) -> str:
        """The id of the case."""
        spec = self.subject.spec
        return f"memory/what-if/{self.table}/{spec.name}/{self.name}"


def changes() -> Iterator[Change]:
    """Yield every change, table by table; the first row of a memory in a table is as shipped."""
    yield from _maps()
    yield from _channels()
    yield from _windows()
    yield from _refreshes()
    yield from _queues()


def change_rows(change: Change, *, count: int = COUNT) -> Iterator[Row]:
    """Yield a row per trace of a change."""
    spec, rules = change.subject.spec, change.subject.policy
    for name in change.traces:
        requests = make_trace(spec, name, max(count, change.least))
        stats = simulate(spec, rules, requests, refresh_rate=change.refresh_rate)
        yield {
            "case": change.case,
            "kind": "what_if",
            "table": change.table,
            "memory": spec.name,
            "policy": rules.name,
            "change": change.name,
            "address_map": spec.address_map,
            "trace": name,
            **measured(stats),
            "bytes_per_s": stats.bandwidth_bytes_per_s(stats.accepted.size // 10),
            "core_pj_per_bit": sum(core_pj_per_bit(stats, change.subject.energy).values()),
            "binding_limit": stats.binding_limit,
            "limits": stats.limits,
        }


def _maps() -> Iterator[Change]:
    base = subject("hbm2_2000", "ramulator2")
    for name, text in MAPS.items():
        spec = replace(base.spec, address_map=text)
        yield Change("maps", name, replace(base, spec=spec), MAP_TRACES)


def _channels() -> Iterator[Change]:
    base = subject("hbm2_2000", "ramulator2")
    for number in (8, 7, 6, 5, 4):
        organisation = replace(base.spec.organisation, channels=number)
        for text in (INTERLEAVED, SPREAD):
            spec = replace(base.spec, organisation=organisation, address_map=text)
            name = f"{number} channels{', hashed' if hashes(text) else ''}"
            yield Change("channels", name, replace(base, spec=spec), ("SR", "S256", "S4096"))


def _windows() -> Iterator[Change]:
    for memory, rules, windows in (
        ("hbm2_2000", "ramulator2", (8, 15, 30)),
        ("hbm2_2000_legacy", "dramsim3", (16, 30)),
    ):
        base = subject(memory, rules)
        for cycles in windows:
            timings = {**base.spec.timings, "tFAW": Timing("assumed", cycles=cycles)}
            sources = {**base.spec.sources, "assumed": "a what-if"}
            spec = replace(base.spec, timings=timings, sources=sources)
            name = f"tFAW {cycles} cycles"
            yield Change("windows", name, replace(base, spec=spec), ("SR", "RR"))


def _refreshes() -> Iterator[Change]:
    for memory, rules in (("hbm2_2000", "ramulator2"), ("hbm2_2000_legacy", "dramsim3")):
        base = subject(memory, rules)
        for rate in (1, 2, 4):
            yield Change("refresh", f"{rate} in tREFI", base, ("SR", "RR"), rate)
    base = subject("hbm2_2000", "ramulator2_per_bank")
    yield Change("refresh", "bank by bank", base, ("SR", "RR"))


def _queues() -> Iterator[Change]:
    """Yield queues of every size without refresh; ranks and stack ids change once in a memory."""
    for memory in ("hbm2_2000", "hbm2_2400", "hbm2e_3200", "hbm3_6400", "hbm4_8000"):
        base = subject(memory, "ramulator2")
        organisation = base.spec.organisation
        all_banks = organisation.columns * organisation.banks_per_channel * organisation.channels
        for size in (32, 64, 128):
            rules = replace(policy("ramulator2"), refresh="none", read_queue=size)
            changed = replace(base, policy=rules)
            yield Change("queues", f"{size} reads", changed, ("SR", "RR"), least=3 * all_banks)
        if organisation.stack_ids > 1:
            spec = replace(base.spec, address_map=stack_last(base.spec.address_map))
            changed = replace(base, spec=spec, policy=rules)
            name = f"{size} reads, stack id highest"
            yield Change("queues", name, changed, ("SR", "RR"), least=3 * all_banks)


def stack_last(text: str) -> str:
    """Return a map whose streams leave a rank and a stack id last of all.

    Example:
        >>> stack_last("row rank bank column")
        'rank row bank column'

    """
    words = text.split()
    last = [word for word in words if word in ("rank", "stack_id")]
    return " ".join([*last, *(word for word in words if word not in last)])


def speed_cases() -> list[str]:
    """Return the ids of the rows of `speed_row`."""
    return [f"memory/speed/{memory}/{rules}" for memory, rules in SPEEDS]


def speed_row(case: str, *, rounds: int, count: int = COUNT) -> Row:
    """Return bursts per CPU second of a stream and of random requests.

    `skipping_*` is the CPU time of the same controller when it visits every tick, over its own.
    """
    memory, rules = case.split("/")[2:]
    base = subject(memory, rules)
    row: Row = {"case": case, "kind": "speed", "memory": memory, "policy": rules}
    for name, load in (("SR", None), ("RM", None), ("SR", 0.1)):
        requests = make_trace(base.spec, name, count, load=load)
        sides = {
            "skipping": partial(_serve, base, requests, is_every_tick=False),
            "every": partial(_serve, base, requests, is_every_tick=True),
        }
        samples = harness.alternate(sides, rounds=rounds, clock=time.thread_time)
        label = name if load is None else f"{name}-{load:g}"
        row[f"bursts_per_s_{label}"] = count / samples["skipping"].median_s
        row[f"skipping_{label}"] = harness.ratio(samples["every"], samples["skipping"]).median
    return row | {"burst_bytes": base.spec.organisation.burst_bytes}


def _serve(chosen: Subject, requests: Trace, *, is_every_tick: bool) -> None:
    controller = Controller(chosen.spec, chosen.policy, is_every_tick=is_every_tick)
    controller.submit(requests)
    controller.finish()
