"""`hwmodels.dma.Loader` and its streams, compiled."""

from hwmodels.dram.jit import Record, helper, nth
from hwmodels.flat.events import push, wait_for
from hwmodels.flat.memory import submit
from hwmodels.flat.plan import FlatPlan
from hwmodels.flat.state import (
    FOREVER,
    GO_ON,
    INPUT,
    KINDS,
    LOADER,
    RESUME,
    ROOM_ON_WAY,
    WEIGHT,
    State,
)


@helper
def begin_loads(chip: Record, run: Record, plan: FlatPlan, state: State) -> None:
    """Start the first load of each stream; the loader goes on once the array has begun."""
    for port in range(2):
        _take_next(run, plan, port)
    for port in range(2):
        if _is_ready(chip, run, plan, state, port):
            _start(chip, run, plan, state, port)
    push(run, state, 0, GO_ON)
    run.turn += 1  # the process begins, before all else


@helper
def go_on(chip: Record, run: Record, plan: FlatPlan, state: State) -> None:
    """Start loads until something has to be waited for."""
    while _start_next(chip, run, plan, state):
        pass


@helper
def _start_next(chip: Record, run: Record, plan: FlatPlan, state: State) -> bool:
    """Start the first load that can start; returns whether there was one."""
    blocked = FOREVER  # the first step that has to wait for a load
    first = WEIGHT if run.step[WEIGHT] < run.step[INPUT] else INPUT
    for port in (first, 1 - first):
        step = run.step[port]
        if step == FOREVER:
            break
        is_early = step > blocked
        if _is_ready(chip, run, plan, state, port):
            if is_early and not _may_be_early(chip, run, state):
                break
            move = nth(plan.moves, run.load[port])
            done = _start(chip, run, plan, state, port)
            if is_early:
                early = nth(state.early, run.early_stop)
                early.done_fs = done
                early.bytes = move.bytes * move.rows
                run.early_stop += 1
                run.early_bytes += early.bytes
            return True
        blocked = min(blocked, step)
    return False


@helper
def _may_be_early(chip: Record, run: Record, state: State) -> bool:
    """Whether a load of a later step may start; if not, the loader goes on when one is done."""
    while run.early < run.early_stop and nth(state.early, run.early).done_fs <= run.now:
        run.early_bytes -= nth(state.early, run.early).bytes
        run.early += 1
    if run.early == run.early_stop:
        return True
    oldest = nth(state.early, run.early)
    if run.early_bytes - oldest.bytes <= chip.ahead_bytes:
        return True
    if run.early_awaited != run.early:
        run.early_awaited = run.early
        push(run, state, oldest.done_fs, GO_ON)
    return False


@helper
def _take_next(run: Record, plan: FlatPlan, port: int) -> None:
    """Find the next load of a stream, and what it has to wait for besides room."""
    at = run.load[port] + 1
    for number in range(run.group[port], run.groups):
        group = nth(plan.groups, number)
        if number > run.group[port]:
            at = group.load
        while at < group.load_stop and nth(plan.loads, at).port != port:
            at += 1
        if at < group.load_stop:
            load = nth(plan.loads, at)
            source = group.source + nth(plan.moves, at).number
            run.group[port] = number
            run.load[port] = at
            run.step[port] = group.first_step + load.step
            run.source[port] = source
            run.producer[port] = nth(plan.sources, source).producer
            run.producer_stop[port] = nth(plan.sources, source).producer_stop
            return
    run.step[port] = FOREVER


@helper
def _is_ready(chip: Record, run: Record, plan: FlatPlan, state: State, port: int) -> bool:
    """Whether the next load can start; if not, but for room, the loader goes on when it may."""
    if run.step[port] == FOREVER or run.is_full[port]:
        return False
    if nth(plan.loads, run.load[port]).credit_bytes > run.free_bytes[port]:
        return False
    if run.flag[port] >= 0 and not nth(state.flags, run.flag[port]).is_set:
        return False
    run.flag[port] = -1
    while run.producer[port] < run.producer_stop[port]:
        flag = nth(plan.producers, run.producer[port]).flag
        run.producer[port] += 1
        if not nth(state.flags, flag).is_set:
            run.flag[port] = flag
            wait_for(state, flag, LOADER)
            return False
    oldest = run.started[port] - chip.prefetch
    if chip.prefetch and oldest >= 0 and nth(state.arrivals, 2 * oldest + port).done_fs > run.now:
        run.is_full[port] = 1
        push(run, state, nth(state.arrivals, 2 * oldest + port).done_fs, ROOM_ON_WAY + KINDS * port)
        return False
    return True


@helper
def _start(chip: Record, run: Record, plan: FlatPlan, state: State, port: int) -> int:
    """Start the next load, which is ready; returns when it will be done."""
    load, move = nth(plan.loads, run.load[port]), nth(plan.moves, run.load[port])
    address = nth(plan.sources, run.source[port]).address
    _take_next(run, plan, port)
    run.free_bytes[port] -= load.credit_bytes
    done = submit(chip, run, state, move, address, port)
    arrival = nth(state.arrivals, 2 * run.started[port] + port)
    arrival.submitted_fs = run.now
    arrival.done_fs = done
    run.started[port] += 1
    if run.is_wanted[port]:
        run.is_wanted[port] = 0
        push(run, state, run.now, RESUME)
    return int(done)
