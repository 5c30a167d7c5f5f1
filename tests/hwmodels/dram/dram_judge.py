"""A judge of command logs: every pair of commands against the standards' tables, by brute force.

Written from the tables of JESD79-4, JESD209-5, JESD235 and JESD238 and from nothing of the
controller. Times are when a command takes effect, at the end of the ticks that it holds its bus.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain, pairwise, takewhile

COLUMN = {"RD", "WR", "RDA", "WRA"}
READ, WRITE = {"RD", "RDA"}, {"WR", "WRA"}
WHOLE_RANK = {"PREab", "REFab"}


@dataclass
class Command:
    tick: int
    name: str
    bank: int
    group: int
    stack: int
    rank: int
    row: int
    request: int
    at: int = 0  # when it takes effect


@dataclass
class Channel:
    open_rows: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    refreshes: list = field(default_factory=list)
    activates: dict = field(default_factory=lambda: defaultdict(list))  # by rank
    rules: dict = field(default_factory=dict)  # `needed` by names and what two places share
    data: list = field(default_factory=list)  # (start, end, rank) of transfers
    half: Command | None = None
    started: Command | None = None
    clock_until: int = 0


def violations(spec, log, names):
    """Return a line for every rule that a log breaks; `names` are the commands by number."""
    channels = defaultdict(list)
    for entry in log:
        channels[int(entry["channel"])].append(command(spec, entry, names))
    problems = []
    for number, commands in channels.items():
        state = Channel()
        for one in commands:
            place = f"channel {number} tick {one.tick} {one.name}"
            problems += [f"{place}: {problem}" for problem in judge(spec, state, one)]
            state.history.append(one)
            if one.name in {"REFab", "REFpb"}:
                state.refreshes.append(one)
    return problems


def command(spec, entry, names):
    """Return a log entry with its place in the tree of the channel."""
    o = spec.organisation
    bank = int(entry["bank"])
    group = bank // o.banks
    stack = group // o.bank_groups
    name = names[entry["command"]]
    held = spec.column_ticks if name in COLUMN else spec.activate_ticks if name == "ACT" else 1
    tick = int(entry["tick"])
    return Command(
        tick,
        name,
        bank,
        group,
        stack,
        stack // o.stack_ids,
        int(entry["row"]),
        int(entry["request"]),
        tick + held - 1,
    )


def judge(spec, state, one):
    """Yield what is wrong with a command, then let it change the state."""
    yield from wrong_order(state, one)
    yield from wrong_bus(spec, state, one)
    yield from wrong_delays(spec, state, one)
    yield from wrong_windows(spec, state, one)
    yield from wrong_rows(spec, state, one)
    if spec.command_bus == "split_activate":
        yield from wrong_halves(spec, state, one)
    if one.name in COLUMN:
        yield from wrong_data(spec, state, one)
    change(spec, state, one)


def wrong_order(state, one):
    if state.history and state.history[-1].tick > one.tick:
        yield "comes before the command that was logged before it"


def wrong_bus(spec, state, one):
    """Yield commands that share a bus they do not fit on."""
    is_column = one.name in COLUMN
    for other in reversed(state.history):
        if other.tick < one.tick - 4:
            break
        if spec.command_bus in {"single", "split_activate"}:
            if other.at >= one.tick:
                yield f"while {other.name} of tick {other.tick} holds the bus"
        elif (other.name in COLUMN) == is_column and other.at >= one.tick:
            yield f"while {other.name} of tick {other.tick} holds the bus"
    if spec.command_bus == "dual_edge" and one.name not in {"PRE", "PREab"} and one.tick % 2 == 0:
        yield "at a falling edge"
    if spec.command_bus == "dual_edge" and one.tick % 2 == 0:
        yield from wrong_pair(state, one)


def wrong_pair(state, one):
    """Yield a precharge at a falling edge that must not follow the edge before (JESD238)."""
    row_commands = (c for c in reversed(state.history) if c.name not in COLUMN and c.tick % 2 == 1)
    last = next(row_commands, None)
    if last is None:
        return
    edge = last.tick + (3 if last.name == "ACT" else 1)
    if edge == one.tick and last.rank == one.rank:
        if one.name == "PREab" or last.name in WHOLE_RANK:
            yield f"pairs with {last.name} of its pseudo-channel"
        elif last.bank == one.bank:
            yield f"pairs with {last.name} of its bank"


def wrong_delays(spec, state, one):
    """Yield every earlier command that this one comes too soon after."""
    # no rule but those of refresh reaches farther than all these together
    parts = ("tRC", "tCWL", "tCL", "tBL", "tWR", "tRTP", "tRP", "tRTW", "tWTR_L", "tFAW", "tRRD_L")
    near = one.tick - sum(map(spec.cycles, parts)) * spec.ticks_per_clock
    far = one.tick - spec.cycles("tRFC") * spec.ticks_per_clock - 8
    recent = takewhile(lambda other: other.tick >= near, reversed(state.history))
    refreshes = takewhile(lambda other: other.tick >= far, reversed(state.refreshes))
    for other in chain(recent, refreshes):
        shared = other.rank == one.rank, other.stack == one.stack, other.group == one.group
        pair = other.name, one.name, *shared, other.bank == one.bank
        if pair not in state.rules:
            state.rules[pair] = needed(spec, other, one)
        cycles, rule = state.rules[pair]
        if cycles and one.at - other.at < cycles * spec.ticks_per_clock:
            yield (
                f"{one.at - other.at} ticks after {other.name} of tick {other.tick}, "
                f"{rule} is {cycles} cycles"
            )


def needed(spec, first, second):
    """Return the cycles that must lie between two commands, and the rule."""
    rules = [(0, "")]
    if first.rank == second.rank:
        if first.name in COLUMN and second.name in COLUMN:
            rules += column_rules(spec, first, second)
        rules += rank_rules(spec, first, second)
        if first.bank == second.bank:
            rules += bank_rules(spec, first, second)
    elif spec.organisation.ranks > 1 and first.name in COLUMN and second.name in COLUMN:
        rules += other_rank_rules(spec, first, second)
    return max(rules)


def column_rules(spec, first, second):
    t = spec.cycles
    same_group, same_stack = first.group == second.group, first.stack == second.stack
    if (first.name in READ) == (second.name in READ):
        if same_group:
            return [(t("tCCD_L"), "tCCD_L")]
        if same_stack:
            return [(t("tCCD_S"), "tCCD_S")]
        return [(max(t("tBL"), t("tCCD_R", 0) if first.name in READ else 0), "tCCD_R")]
    if first.name in READ:
        return [(t("tRTW"), "tRTW")]
    if same_group:
        return [(t("tCWL") + t("tBL_L", t("tBL")) + t("tWTR_L"), "tWTR_L")]
    return [(t("tCWL") + t("tBL") + t("tWTR_S"), "tWTR_S")]


def other_rank_rules(spec, first, second):
    t = spec.cycles
    gap = t("tRTRS", 0)
    if first.name in READ:
        if second.name in READ:
            return [(t("tBL") + gap, "tRTRS")]
        return [(t("tCL") + t("tBL") + gap - t("tCWL"), "tRTRS")]
    if second.name in READ:
        return [(t("tCWL") + t("tBL") + gap - t("tCL"), "tRTRS")]
    return [(t("tBL"), "tBL")]


def rank_rules(spec, first, second):
    """Return rules between commands of one rank, whatever their banks."""
    t = spec.cycles
    names = first.name, second.name
    same_group = first.group == second.group
    recovery = t("tCWL") + t("tBL") + t("tWR")
    all_close = t("tRPab", t("tRP"))
    between = t("tRREFD", t("tRRD_S"))
    table = {
        ("ACT", "ACT"): (t("tRRD_L") if same_group else t("tRRD_S"), "tRRD"),
        ("ACT", "PREab"): (t("tRAS"), "tRAS"),
        ("RD", "PREab"): (t("tRTP"), "tRTP"),
        ("WR", "PREab"): (recovery, "tWR"),
        ("PREab", "ACT"): (all_close, "tRP"),
        ("PREab", "REFab"): (all_close, "tRP"),
        ("PREab", "REFpb"): (all_close, "tRP"),
        ("PRE", "REFab"): (t("tRP"), "tRP"),
        ("ACT", "REFab"): (t("tRC"), "tRC"),
        ("RDA", "REFab"): (t("tRTP") + t("tRP"), "tRTP + tRP"),
        ("WRA", "REFab"): (recovery + t("tRP"), "tWR + tRP"),
        ("ACT", "REFpb"): (t("tRRDpb_L", t("tRRD_S")) if same_group else t("tRRD_S"), "tRRD"),
        ("REFpb", "ACT"): (between, "tRREFD"),
        ("REFpb", "REFpb"): (t("tREFD", between), "tREFD"),
        ("REFpb", "REFab"): (t("tRFCpb", 0), "tRFCpb"),
    }
    found = [table[names]] if names in table else []
    if first.name == "REFab" and second.name in {"ACT", "REFab", "REFpb", "PREab"}:
        found.append((t("tRFC"), "tRFC"))
    if {first.name, second.name} <= {"PRE", "PREab"}:
        found.append((t("tPPD", 0), "tPPD"))
    return found


def bank_rules(spec, first, second):
    """Return rules between commands of one bank."""
    t = spec.cycles
    recovery = t("tCWL") + t("tBL") + t("tWR")
    read_close = t("tRTP") + t("tRP")
    table = {
        ("ACT", "ACT"): (t("tRC"), "tRC"),
        ("ACT", "PRE"): (t("tRAS"), "tRAS"),
        ("PRE", "ACT"): (t("tRP"), "tRP"),
        ("RD", "PRE"): (t("tRTP"), "tRTP"),
        ("WR", "PRE"): (recovery, "tWR"),
        ("RDA", "ACT"): (read_close, "tRTP + tRP"),
        ("WRA", "ACT"): (recovery + t("tRP"), "tWR + tRP"),
        ("RDA", "REFpb"): (read_close, "tRTP + tRP"),
        ("WRA", "REFpb"): (recovery + t("tRP"), "tWR + tRP"),
        ("PRE", "REFpb"): (t("tRP"), "tRP"),
        ("ACT", "REFpb"): (t("tRC"), "tRC"),
        ("REFpb", "ACT"): (t("tRFCpb", 0), "tRFCpb"),
        ("REFpb", "REFpb"): (t("tRFCpb", 0), "tRFCpb"),
    }
    found = [table[first.name, second.name]] if (first.name, second.name) in table else []
    if first.name == "ACT" and second.name in COLUMN:
        name = "tRCDRD" if second.name in READ else "tRCDWR"
        found.append((t(name), name))
    return found


def wrong_windows(spec, state, one):
    """Yield a fifth ACT in the window of four."""
    if one.name == "ACT":
        earlier = state.activates[one.rank]
        window = spec.cycles("tFAW") * spec.ticks_per_clock
        if len(earlier) >= 4 and one.at - earlier[-4].at < window:
            yield f"the fifth ACT since tick {earlier[-4].tick}, tFAW"
        earlier.append(one)


def wrong_rows(spec, state, one):
    """Yield commands to a bank that is open where it must be closed, or the other way round."""
    row = state.open_rows.get(one.bank)
    if one.name in COLUMN and row != one.row:
        yield f"row {one.row}, but {row} is open"
    if one.name in {"ACT", "REFpb"} and row is not None:
        yield f"row {row} is open"
    if one.name == "REFab" and any(b in state.open_rows for b in banks_of_rank(spec, one)):
        yield "a bank of the rank is open"


def banks_of_rank(spec, one):
    o = spec.organisation
    count = o.stack_ids * o.bank_groups * o.banks
    return range(one.rank * count, (one.rank + 1) * count)


def wrong_halves(spec, state, one):
    """Yield split ACTs without a second half in time, and columns without a write clock."""
    half = state.half
    if half is not None:
        if one.tick - half.tick > spec.cycles("tAAD"):
            yield f"the second half of ACT of tick {half.tick} is late"
        if one.name == "ACT":
            yield "between the halves of another ACT"
        if one.bank == half.bank and one.name in COLUMN | {"PRE"}:
            yield "between the halves of its ACT"
    if one.name == "ACT2" and (half is None or half.bank != one.bank or one.tick <= half.tick):
        yield "without a first half before it"
    started = state.started
    if started is not None and (one.tick != started.tick + 1 or one.request != started.request):
        yield "between CAS and its column command"
    if one.name in COLUMN and started is None and one.tick >= state.clock_until:
        yield "without a running write clock"


def wrong_data(spec, state, one):
    """Yield transfers that overlap on a data bus."""
    latency = spec.cycles("tCL") if one.name in READ else spec.cycles("tCWL")
    start = one.at + latency * spec.ticks_per_clock
    end = start + spec.cycles("tBL") * spec.ticks_per_clock
    is_shared = spec.organisation.ranks > 1
    for other_start, other_end, rank in state.data[-64:]:
        if (is_shared or rank == one.rank) and start < other_end and other_start < end:
            yield f"data of ticks {start} to {end} meet those of {other_start} to {other_end}"
    state.data.append((start, end, one.rank))


def change(spec, state, one):
    """Let a command open and close rows and move the write clock."""
    if one.name == "ACT":
        state.open_rows[one.bank] = one.row
        state.half = one if spec.command_bus == "split_activate" else None
    elif one.name in {"PRE", "RDA", "WRA"}:
        state.open_rows.pop(one.bank, None)
    elif one.name == "PREab":
        for bank in banks_of_rank(spec, one):
            state.open_rows.pop(bank, None)
    elif one.name == "ACT2":
        state.half = None
    state.started = one if one.name == "CAS" else None
    if one.name in COLUMN:
        latency = spec.cycles("tCL") if one.name in READ else spec.cycles("tCWL")
        after = latency + spec.cycles("tBL") + spec.cycles("tWCKPST", 0)
        state.clock_until = max(state.clock_until, one.tick + after)


def late_refreshes(spec, log, names, ticks):
    """Return a line for every rank of every channel refreshed less than once a tREFI.

    Two intervals may pass before the first one and between any two.
    """
    o = spec.organisation
    interval = spec.cycles("tREFI") * spec.ticks_per_clock
    units = defaultdict(list)
    is_single = any(names[entry["command"]] == "REFpb" for entry in log)
    for entry in log:
        one = command(spec, entry, names)
        if one.name in {"REFab", "REFpb"}:
            unit = one.bank if is_single else one.rank
            units[int(entry["channel"]), unit].append(one.tick)
    count = o.banks_per_channel if is_single else o.ranks * o.pseudo_channels
    problems = []
    for channel in range(o.channels):
        for unit in range(count):
            times = [0, *units[channel, unit], ticks]
            gap = max(after - before for before, after in pairwise(times))
            if gap > 2 * interval:
                problems.append(f"channel {channel} unit {unit}: {gap} ticks without a refresh")
    return problems
