"""Links before the channels of a memory cube: packets, quadrants and the crossbar between them.

A request is accepted by a link, crosses to the quadrant of its channel and waits there for room in
the channel; its answer crosses back and is complete with its last flit at the source. Links and
quadrants work in steps of one flit, which are no multiple of the channels' clock: a step belongs
to the tick it lies in. A crossing holds its target for half as many steps as the packet has flits.
The rules are those of DRAMsim3 (src/hmc.cc), but for one: a request that would pass another one to
its address on the way to their channel is refused until that is there, unless both read.
"""

import numpy as np

from hwmodels.dram import bank_queues
from hwmodels.dram.jit import Integers, Record, helper, piece
from hwmodels.dram.queues import complete
from hwmodels.dram.state import AWAY, BACK, LINE_MARKS, NEVER, RESPONSE


@helper
def push(run: Record, requests: np.ndarray, queue: int, at: int, index: int) -> None:
    """Put a request at the end of the queue of a link or quadrant."""
    requests[index].follow = -1
    if run.link_count[queue, at]:
        requests[run.link_tail[queue, at]].follow = index
    else:
        run.link_head[queue, at] = index
    run.link_tail[queue, at] = index
    run.link_count[queue, at] += 1


@helper
def pop(run: Record, requests: np.ndarray, queue: int, at: int) -> None:
    """Take the first request out of the queue of a link or quadrant."""
    run.link_head[queue, at] = requests[run.link_head[queue, at]].follow
    run.link_count[queue, at] -= 1


@helper
def may_pass(rules: Record, requests: np.ndarray, run: Record, index: int) -> bool:
    """Whether a request to the same address is on its way to the channel and one of both writes."""
    line, is_write = requests[index].line, requests[index].is_write
    for queue in (AWAY, RESPONSE + AWAY):
        for at in range(rules.quadrants if queue else rules.links):
            other = run.link_head[queue, at]
            for _ in range(run.link_count[queue, at]):
                if requests[other].line == line and (is_write or requests[other].is_write):
                    return True
                other = requests[other].follow
    return False


@piece
def accept(rules: Record, requests: np.ndarray, run: Record, index: int, clock: int) -> bool:
    """Take a request into the next link in turn that has room; False if none has."""
    mark = requests[index].line % LINE_MARKS
    if run.link_lines[mark] and may_pass(rules, requests, run, index):
        return False
    for turn in range(rules.links):
        link = (run.link_turn + turn) % rules.links
        if run.link_count[AWAY, link] < rules.link_queue:
            requests[index].accepted = clock
            requests[index].link = link
            push(run, requests, AWAY, link, index)
            run.link_age[AWAY, link] = 1
            run.link_turn = (link + 1) % rules.links
            run.link_lines[mark] += 1
            run.away += 1
            run.moving += 1
            return True
    return False


@helper
def crossing(run: Record, queue: int, count: int, step: int, order: Integers) -> int:
    """Write who waits to cross into `order`, in their turn; returns how many.

    The turn begins with another one at every step. Who waits longer than the number of one that
    is listed goes before it: a number is compared with an age, as the simulator does it.
    """
    found = 0
    for turn in range(count):
        one = (step + turn) % count
        age = run.link_age[queue, one]
        if age == 0:
            continue
        place = found
        for j in range(found):
            if age > order[j]:
                place = j
                break
        for j in range(found, place, -1):
            order[j] = order[j - 1]
        order[place] = one
        found += 1
    return found


@helper
def cross(rules: Record, requests: np.ndarray, run: Record, back: int, step: int) -> None:
    """Let the first packet of each link cross to its quadrant, or `back` of each quadrant."""
    count = rules.quadrants if back else rules.links
    order = run.link_order
    for turn in range(crossing(run, back, count, step, order)):
        one = order[turn]
        index = run.link_head[back, one]
        request = requests[index]
        target = request.link if back else request.channel % rules.quadrants
        is_full = run.link_count[RESPONSE + back, target] >= rules.link_queue
        if is_full or run.link_free[back, target] > step:
            run.link_age[back, one] += 1
            continue
        pop(run, requests, back, one)
        push(run, requests, RESPONSE + back, target, index)
        flits = rules.flits[back, request.is_write]
        request.due = step + flits
        run.link_free[back, target] = step + (flits + 1) // 2
        run.link_age[back, one] = run.link_count[back, one] > 0


@helper
def answers(rules: Record, requests: np.ndarray, run: Record, step: int, tick: int) -> None:
    """Do one step of the way back: a packet of each link to the source, then the crossings."""
    for link in range(rules.links):
        index = run.link_head[RESPONSE + BACK, link]
        if run.link_count[RESPONSE + BACK, link] and requests[index].due <= step:
            pop(run, requests, RESPONSE + BACK, link)
            complete(requests, run, index, tick + 1)
            run.away -= 1
            run.moving -= 1
    cross(rules, requests, run, BACK, step)


@helper
def offers(
    rules: Record,
    state: np.ndarray,
    requests: np.ndarray,
    run: Record,
    wakes: Integers,
    step: int,
    tick: int,
) -> None:
    """Do one step of the way there: a packet of each quadrant to its channel, then crossings."""
    for quadrant in range(rules.quadrants):
        index = run.link_head[RESPONSE + AWAY, quadrant]
        if (
            run.link_count[RESPONSE + AWAY, quadrant]
            and run.link_count[BACK, quadrant] < rules.link_queue
            and requests[index].due <= step
        ):
            channel = requests[index].channel
            follow = requests[index].follow
            ch = state[channel]
            if bank_queues.accept(rules, ch, requests, run, index, tick + 1):
                run.link_head[RESPONSE + AWAY, quadrant] = follow
                run.link_count[RESPONSE + AWAY, quadrant] -= 1
                run.link_lines[requests[index].line % LINE_MARKS] -= 1
                run.moving -= 1
                wakes[channel] = ch.wake
    cross(rules, requests, run, AWAY, step)


@piece
def collect(rules: Record, state: np.ndarray, requests: np.ndarray, run: Record, tick: int) -> None:
    """Put what channels have answered by a tick into the queues of their quadrants."""
    for channel in range(rules.channels):
        ch = state[channel]
        for kind in range(2):
            while ch.back_head[kind] >= 0 and requests[ch.back_head[kind]].due <= tick:
                index = ch.back_head[kind]
                ch.back_head[kind] = requests[index].follow
                quadrant = channel % rules.quadrants
                push(run, requests, BACK, quadrant, index)
                run.link_age[BACK, quadrant] = 1
                run.moving += 1


@piece
def before_channels(
    rules: Record, state: np.ndarray, requests: np.ndarray, run: Record, tick: int
) -> None:
    """Do what comes before the channels in a tick."""
    step = -(-tick * rules.clock_ps // rules.flit_ps)
    if step * rules.flit_ps == tick * rules.clock_ps:
        answers(rules, requests, run, step, tick)
    collect(rules, state, requests, run, tick)


@piece
def after_channels(
    rules: Record,
    state: np.ndarray,
    requests: np.ndarray,
    run: Record,
    wakes: Integers,
    tick: int,
) -> None:
    """Do the steps of a tick that come after the channels."""
    step = -(-tick * rules.clock_ps // rules.flit_ps)
    is_edge = step * rules.flit_ps == tick * rules.clock_ps
    while step * rules.flit_ps < (tick + 1) * rules.clock_ps:
        if not is_edge:
            answers(rules, requests, run, step, tick)
        is_edge = False
        offers(rules, state, requests, run, wakes, step, tick)
        step += 1


@piece
def next_step(rules: Record, state: np.ndarray, requests: np.ndarray, run: Record) -> int:
    """Return the next tick in which a link, a quadrant or an answer may move."""
    if run.moving:
        return int(run.clock + 1)
    soon = NEVER
    for channel in range(rules.channels):
        for kind in range(2):
            index = state[channel].back_head[kind]
            if index >= 0:
                soon = min(soon, requests[index].due)
    return int(soon)


def first_away(requests: np.ndarray) -> int:
    """Return the first request that is not complete; NEVER if all are."""
    found = np.flatnonzero(requests["completed"] < 0)
    return int(found[0]) if found.size else NEVER
