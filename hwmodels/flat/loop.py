"""`hwmodels.machine` on the plain roofline, compiled: the same time line, event by event.

One core, one memory that serves in order of submission, and nobody who watches. There the array and
the vector unit are all that ever waits, so that what is a process in SimPy is a plain function
here, and waiting is `pass_time`: events are handled until one lets it go on. They have the times
and turns that SimPy gives them.
"""

from hwmodels.dram.jit import Record, entry, first, helper, nth, piece
from hwmodels.flat.events import pop, push, set_flag, wait_for
from hwmodels.flat.loader import begin_loads, go_on
from hwmodels.flat.plan import FlatPlan
from hwmodels.flat.state import (
    ARRAY,
    DEPENDENCY,
    FLAG_SET,
    INPUT,
    KINDS,
    OUTPUT,
    RESUME,
    ROOM_ON_WAY,
    STORED,
    TILE_DONE,
    UNITS,
    VECTOR,
    WEIGHT,
    State,
)
from hwmodels.flat.stores import empty, note_stored, send


@entry
def execute(chip: Record, run: Record, plan: FlatPlan, state: State) -> None:
    """Run a plan from the state before its first event.

    `run.load` is the place before the first load. Raises RuntimeError when nothing is left to
    happen before the plan is done.
    """
    _run_all(chip, run, _plan(plan), _state(state))


@piece
def _plan(plan: FlatPlan) -> FlatPlan:
    """Return where the records of a plan begin."""
    return FlatPlan(
        first(plan.groups),
        first(plan.steps),
        first(plan.loads),
        first(plan.moves),
        first(plan.stores),
        first(plan.work),
        first(plan.sources),
        first(plan.targets),
        first(plan.producers),
        first(plan.spills),
    )


@piece
def _state(state: State) -> State:
    """Return where the records of a state begin."""
    return State(
        first(state.flags),
        first(state.events),
        first(state.arrivals),
        first(state.early),
        first(state.tiles),
        first(state.stores),
        first(state.channels),
        first(state.requesters),
        first(state.logs),
        first(state.waits),
        first(state.spans),
    )


@helper
def _run_all(chip: Record, run: Record, plan: FlatPlan, state: State) -> None:
    """Run all groups in order, then wait for the last store."""
    begin_loads(chip, run, plan, state)
    for number in range(run.groups):
        log = nth(state.logs, number)
        log.start_fs = run.now
        log.wait = run.waits
        log.span = run.spans
        if nth(plan.groups, number).unit == ARRAY:
            _until(chip, run, plan, state, _edge(run.now, chip.period_fs))
        _run_group(chip, run, plan, state, number)
        log.end_fs = run.now
        log.wait_stop = run.waits
        log.span_stop = run.spans
        set_flag(run, state, number)
    if run.groups and run.stores_left:
        last = run.groups - 1
        log = nth(state.logs, last)
        begin = run.now
        run.is_last_store_awaited = 1
        pass_time(chip, run, plan, state)
        period = _period(chip, plan, last)
        _until(chip, run, plan, state, _stall(run, state, begin, run.now, OUTPUT, period))
        log.end_fs = run.now
        log.wait_stop = run.waits
    push(run, state, run.now, RESUME)  # the process is over, which is an event
    pass_time(chip, run, plan, state)
    run.turn += 1  # that event, which SimPy puts back where it ends a run


@helper
def pass_time(chip: Record, run: Record, plan: FlatPlan, state: State) -> None:
    """Handle event after event until the array and the vector unit go on."""
    while True:
        while run.left:
            who = run.left & 3
            run.left >>= 2
            if who == UNITS:
                return
            go_on(chip, run, plan, state)
        if not run.queued:
            raise RuntimeError("nothing is left to happen, and the plan is not done")
        what = pop(run, state)
        kind, number = what % KINDS, what // KINDS
        if kind == RESUME or _happen(chip, run, plan, state, kind, number):
            return


@helper
def _happen(
    chip: Record, run: Record, plan: FlatPlan, state: State, kind: int, number: int
) -> bool:
    """Let an event happen; whether the array and the vector unit go on with it."""
    if kind == FLAG_SET:
        run.left = nth(state.flags, number).waiting
    elif kind == STORED:
        note_stored(run, plan, state, number)
    elif kind == TILE_DONE:
        empty(chip, run, plan, state, number)
        run.fused_done += 1
        return bool(run.is_tile_awaited and run.fused_done == run.fused)
    else:
        if kind == ROOM_ON_WAY:
            run.is_full[number] = 0
        go_on(chip, run, plan, state)
    return False


@helper
def _until(chip: Record, run: Record, plan: FlatPlan, state: State, time_fs: int) -> None:
    """Let time go on until `time_fs`."""
    if time_fs > run.now:
        push(run, state, time_fs, RESUME)
        pass_time(chip, run, plan, state)


@helper
def _edge(time_fs: int, period_fs: int) -> int:
    """Return the first edge from `time_fs` of a clock."""
    return time_fs + -time_fs % period_fs


@helper
def _period(chip: Record, plan: FlatPlan, group: int) -> int:
    """Return the clock period of a group's unit."""
    is_vector = nth(plan.groups, group).unit == VECTOR
    return int(chip.vector_period_fs if is_vector else chip.period_fs)


@helper
def _note(run: Record, state: State, begin: int, end: int, cause: int) -> None:
    """Put a wait down."""
    wait = nth(state.waits, run.waits)
    wait.start_fs = begin
    wait.end_fs = end
    wait.what = cause
    run.waits += 1


@helper
def _stall(run: Record, state: State, begin: int, end: int, cause: int, period_fs: int) -> int:
    """Put a wait down, from `begin` to the first edge from `end`, and return when it is over."""
    over = _edge(end, period_fs)
    _note(run, state, begin, over, cause)
    return int(over)


@helper
def _run_group(chip: Record, run: Record, plan: FlatPlan, state: State, number: int) -> None:
    """Run the steps of one group on the array or the vector unit."""
    group = nth(plan.groups, number)
    period = _period(chip, plan, number)
    _spill(chip, run, plan, state, number)
    for at in range(group.step, group.step_stop):
        step = nth(plan.steps, at)
        end = _begin(chip, run, plan, state, at, period)
        if step.array_cycles >= 0:
            end += step.array_cycles * chip.period_fs
        elif step.work < step.work_stop:
            end = _work(chip, run, plan, state, at, end)
        _until(chip, run, plan, state, end)
        _end(chip, run, plan, state, number, at)
    if run.fused_done < run.fused:
        begin = run.now
        run.is_tile_awaited = 1
        pass_time(chip, run, plan, state)
        run.is_tile_awaited = 0
        _until(chip, run, plan, state, _stall(run, state, begin, run.now, OUTPUT, period))


@helper
def _spill(chip: Record, run: Record, plan: FlatPlan, state: State, number: int) -> None:
    """Write to memory what has to go before the group begins."""
    group = nth(plan.groups, number)
    period = _period(chip, plan, number)
    for at in range(group.spill, group.spill_stop):
        send(chip, run, plan, state, nth(plan.spills, at), nth(plan.spills, at).number, -1)
    for at in range(group.spill, group.spill_stop):
        flag = nth(plan.targets, nth(plan.spills, at).number).flag
        if not nth(state.flags, flag).is_set:
            begin = run.now
            wait_for(state, flag, UNITS)
            pass_time(chip, run, plan, state)
            _until(chip, run, plan, state, _stall(run, state, begin, run.now, OUTPUT, period))


@helper
def _begin(chip: Record, run: Record, plan: FlatPlan, state: State, at: int, period_fs: int) -> int:
    """Return when a step can begin: its operands are there, and room in the output buffer."""
    step = nth(plan.steps, at)
    begin = run.now
    for number in range(step.load, step.load_stop):
        load = nth(plan.loads, number)
        port = load.port
        is_late = run.taken[port] == run.started[port]
        if is_late:
            run.is_wanted[port] = 1
            pass_time(chip, run, plan, state)
        arrival = nth(state.arrivals, 2 * run.taken[port] + port)
        run.taken[port] += 1
        done = arrival.done_fs
        if is_late or done > begin:
            if arrival.submitted_fs > begin:
                _note(run, state, begin, arrival.submitted_fs, DEPENDENCY)
                begin = arrival.submitted_fs
            begin = _stall(run, state, begin, max(begin, done), port, period_fs)
        if load.shift_cycles:
            shifted = done + load.shift_cycles * chip.period_fs
            if shifted > begin:
                begin = _stall(run, state, begin, shifted, port, period_fs)
    if step.opens_bytes > run.output_bytes:
        run.asked_bytes = step.opens_bytes
        pass_time(chip, run, plan, state)
        begin = _stall(run, state, begin, max(begin, run.now), OUTPUT, period_fs)
    else:
        run.output_bytes -= step.opens_bytes
    return int(begin)


@helper
def _work(chip: Record, run: Record, plan: FlatPlan, state: State, at: int, start_fs: int) -> int:
    """Put the vector work of a step down, op after op, and return when it ends."""
    step = nth(plan.steps, at)
    start = start_fs
    end = _edge(start, chip.vector_period_fs)
    for number in range(step.work, step.work_stop):
        end += nth(plan.work, number).cycles * chip.vector_period_fs
        span = nth(state.spans, run.spans)
        span.start_fs = start
        span.end_fs = end
        span.what = nth(plan.work, number).number
        run.spans += 1
        start = end
    return int(end)


@helper
def _end(chip: Record, run: Record, plan: FlatPlan, state: State, group: int, at: int) -> None:
    """Give back the operands of a step and pass on its results."""
    step = nth(plan.steps, at)
    run.free_bytes[INPUT] += step.input_bytes
    run.free_bytes[WEIGHT] += step.weight_bytes
    is_fused = step.array_cycles >= 0 and step.work < step.work_stop
    if is_fused or step.closes_bytes:
        tile = nth(state.tiles, run.tiles)
        tile.group = group
        tile.step = at
        tile.stores = step.store_stop - step.store
        run.tiles += 1
    if is_fused:
        run.fused_fs = _work(chip, run, plan, state, at, max(run.now, run.fused_fs))
        run.fused += 1
        push(run, state, run.fused_fs, TILE_DONE + KINDS * (run.tiles - 1))
    elif step.closes_bytes:
        empty(chip, run, plan, state, run.tiles - 1)
    if step.is_releasing:
        go_on(chip, run, plan, state)
