"""How a controller chooses: queues, drains, pages and refresh as data."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le, MinLen

from hwmodels.dram.problems import SpecError, nearest
from hwmodels.dram.spec import DramSpec

Scheduler = Literal["shared_queues", "bank_queues"]
Page = Literal["open", "closed"]
Refresh = Literal["all_bank", "per_bank", "none"]
Front = Literal["none", "links"]

MAX_QUEUE = 256
"""Requests that the queues of a channel have room for."""
MAX_BANK_QUEUE = 16
"""Requests that the queue of a bank has room for."""


@dataclass(frozen=True)
class Policy:
    """The rules of one controller.

    `shared_queues`: one read and one write queue a channel; first ready, then oldest, over all
    banks. Writes are served above `write_high` of their queue or when no read waits, until they
    are below `write_low` and one does. `bank_queues`: reads and writes move to a queue of
    `bank_queue` requests for each bank, which are asked in turn; a row is kept open for the queue
    of its bank up to `row_hits` accesses, and writes are moved once they fill their queue, or are
    more than `idle_writes` while the queues of all banks are empty. `is_unified` has one queue for
    both. With `closed` pages every access precharges its bank unless another one opened it. With
    `links` in `front` requests and answers pass the links that the memory states.
    """

    name: Annotated[str, MinLen(1)]
    source: Annotated[str, MinLen(1)]
    scheduler: Scheduler
    page: Page = "open"
    refresh: Refresh = "all_bank"
    read_queue: Annotated[int, Ge(1)] = 32
    write_queue: Annotated[int, Ge(1)] = 32
    write_high: Annotated[float, Gt(0), Le(1)] = 0.8
    write_low: Annotated[float, Gt(0), Le(1)] = 0.2
    bank_queue: Annotated[int, Ge(1)] = 8
    row_hits: Annotated[int, Ge(1)] = 4
    idle_writes: Annotated[int, Ge(0)] = 8
    is_unified: bool = False
    front: Front = "none"


_RAMULATOR = Policy(
    name="ramulator2",
    source="Ramulator 2.1 (c5b1c3a): controller_base.cpp, frfcfs.cpp, all_bank.cpp, defaults",
    scheduler="shared_queues",
)
_DRAMSIM = Policy(
    name="dramsim3",
    source="DRAMsim3 (2981759): controller.cc, command_queue.cc, refresh.cc, defaults",
    scheduler="bank_queues",
)
POLICIES = {
    policy.name: policy
    for policy in (
        _RAMULATOR,
        _DRAMSIM,
        replace(
            _RAMULATOR,
            name="ramulator2_closed",
            source="assumed: ramulator2 with auto-precharge after every access; Ramulator 2.1 has "
            "closed_cap.cpp instead, which closes a row after several",
            page="closed",
        ),
        replace(
            _RAMULATOR,
            name="ramulator2_per_bank",
            source="Ramulator 2.1 (c5b1c3a): as ramulator2; per_bank.cpp, for HBM3 and HBM4 "
            "hbm34_per_bank_refresh.cpp",
            refresh="per_bank",
        ),
        replace(
            _RAMULATOR,
            name="ramulator2_deep",
            source="assumed: ramulator2 with queues that hide PRE and ACT of a stream on HBM4",
            read_queue=128,
            write_queue=128,
        ),
        replace(_DRAMSIM, name="dramsim3_closed", page="closed", is_unified=True),
        replace(
            _DRAMSIM,
            name="dramsim3_links",
            source="DRAMsim3 (2981759): hmc.cc before the vaults, which have closed pages",
            page="closed",
            is_unified=True,
            front="links",
        ),
    )
}
"""The shipped policies. A variant is a `dataclasses.replace` of one of them."""


def policy(name: str) -> Policy:
    """Return a shipped policy; SpecError with the nearest name if there is none.

    Example:
        >>> policy("ramulator2").write_high
        0.8

    """
    if name not in POLICIES:
        raise SpecError([f'policy: unknown policy "{name}"{nearest(name, POLICIES)}'])
    return POLICIES[name]


def check(spec: DramSpec, chosen: Policy) -> None:
    """Raise SpecError with all that keeps a policy from working on a memory."""
    if problems := [*_own_problems(chosen), *_shared_problems(spec, chosen)]:
        raise SpecError([f"policy {chosen.name}: {problem}" for problem in problems])


def refreshed_ranks(spec: DramSpec) -> int:
    """Return of how many ranks banks are refreshed together, bank by bank.

    The pseudo-channels of memories whose bus has two edges are (Ramulator 2.1).
    """
    return spec.organisation.pseudo_channels if spec.command_bus == "dual_edge" else 1


def refresh_interval(spec: DramSpec, chosen: Policy, rate: int = 1) -> int:
    """Return the ticks between refreshes of a channel at `rate` times the usual; 0 without them.

    The part of tREFI that a bank has is rounded up, that of a rank down, as the simulators do.
    """
    organisation, cycles = spec.organisation, spec.cycles("tREFI")
    if chosen.refresh == "none":
        return 0
    if chosen.refresh == "per_bank":
        turns = organisation.banks_per_channel // refreshed_ranks(spec)
        return math.ceil(cycles / (turns * rate)) * spec.ticks_per_clock
    if chosen.scheduler == "bank_queues":
        rate *= organisation.pseudo_channels * organisation.ranks
    return cycles // rate * spec.ticks_per_clock


def check_rate(spec: DramSpec, chosen: Policy, rate: int) -> None:
    """Refuse a refresh that leaves no time for anything else."""
    interval = spec.cycles("tREFI") // rate if rate > 0 else 0
    least, text = spec.cycles("tRFC") + 2 * spec.cycles("tRP"), "tRFC + 2 tRP"
    if chosen.refresh == "per_bank":
        turn = refresh_interval(spec, chosen, max(1, rate)) // spec.ticks_per_clock
        interval = min(interval, turn)
        between = spec.cycles("tREFD", spec.cycles("tRREFD", spec.cycles("tRRD_S")))
        least = refreshed_ranks(spec) * spec.cycles("tRP") + between + 4
        text = "tRP of each bank refreshed at once, that between two refreshes, and 4"
    if least >= interval:
        problem = f"found {rate}, expected at least 1 and an interval above {least} cycles"
        raise SpecError([f"{spec.name}: refresh_rate: {problem}, {text}"])


def _own_problems(chosen: Policy) -> Iterator[str]:
    for name, most in (
        ("read_queue", MAX_QUEUE),
        ("write_queue", MAX_QUEUE),
        ("bank_queue", MAX_BANK_QUEUE),
    ):
        found = getattr(chosen, name)
        if not 1 <= found <= most:
            yield f"{name}: found {found}, expected 1 to {most}"
    if not 0 < chosen.write_low <= chosen.write_high <= 1:
        yield (
            f"write_low {chosen.write_low:g}, write_high {chosen.write_high:g}: "
            "expected 0 < write_low <= write_high <= 1"
        )
    for name, kind in (
        ("scheduler", Scheduler),
        ("page", Page),
        ("refresh", Refresh),
        ("front", Front),
    ):
        found, known = getattr(chosen, name), get_args(kind)
        if found not in known:
            yield f'{name}: found "{found}"{nearest(found, known)}'


def _shared_problems(spec: DramSpec, chosen: Policy) -> Iterator[str]:
    if chosen.refresh == "per_bank" and "tRFCpb" not in spec.timings:
        yield f'refresh: found "per_bank", but {spec.name} states no tRFCpb'
    if chosen.front == "links":
        if spec.links is None:
            yield f'front: found "links", but {spec.name} states none'
        if chosen.scheduler != "bank_queues":
            yield 'front: found "links", only bank_queues know them'
    if chosen.scheduler == "bank_queues":
        if chosen.refresh == "per_bank":
            yield 'refresh: found "per_bank", bank_queues refresh whole ranks'
        if spec.command_bus in {"dual_edge", "split_activate"}:
            yield f"scheduler: bank_queues know no {spec.command_bus} command bus of {spec.name}"
        is_long = spec.command_bus == "single" and spec.activate_ticks > 1
        if is_long or spec.column_ticks > 1:
            yield (
                "scheduler: bank_queues know only ACT on a bus of row commands to take several "
                f"ticks, {spec.name} has others"
            )
