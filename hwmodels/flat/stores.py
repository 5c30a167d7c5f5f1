"""The way of results out of the output buffer, compiled."""

from hwmodels.dram.jit import Record, helper, nth
from hwmodels.flat.events import push, set_flag
from hwmodels.flat.memory import submit
from hwmodels.flat.plan import FlatPlan
from hwmodels.flat.state import KINDS, OUTPUT, RESUME, STORED, State


@helper
def empty(chip: Record, run: Record, plan: FlatPlan, state: State, tile: int) -> None:
    """Write a finished tile to memory and free its room when that is done."""
    step = nth(plan.steps, nth(state.tiles, tile).step)
    if step.store == step.store_stop:
        _give(run, state, step.closes_bytes)
    first = nth(plan.groups, nth(state.tiles, tile).group).target
    for number in range(step.store, step.store_stop):
        store = nth(plan.stores, number)
        send(chip, run, plan, state, store, first + store.number, tile)


@helper
def send(
    chip: Record, run: Record, plan: FlatPlan, state: State, move: Record, target: int, tile: int
) -> None:
    """Write to memory what belongs to a tile, or to none (-1)."""
    store = nth(state.stores, run.stores)
    store.flag = nth(plan.targets, target).flag
    store.tile = tile
    done = submit(chip, run, state, move, nth(plan.targets, target).address, OUTPUT)
    push(run, state, done, STORED + KINDS * run.stores)
    run.stores += 1


@helper
def note_stored(run: Record, plan: FlatPlan, state: State, number: int) -> None:
    """Count a store as done, for the tensor, for its tile and for all."""
    store = nth(state.stores, number)
    flag = nth(state.flags, store.flag)
    flag.open_stores -= 1
    if not flag.open_stores:
        set_flag(run, state, store.flag)
    if store.tile >= 0:
        tile = nth(state.tiles, store.tile)
        tile.stores -= 1
        if not tile.stores:
            _give(run, state, nth(plan.steps, tile.step).closes_bytes)
    run.stores_left -= 1
    if run.is_last_store_awaited and not run.stores_left:
        push(run, state, run.now, RESUME)


@helper
def _give(run: Record, state: State, size_bytes: int) -> None:
    """Give room in the output buffer back."""
    run.output_bytes += size_bytes
    if run.asked_bytes and run.asked_bytes <= run.output_bytes:
        run.output_bytes -= run.asked_bytes
        run.asked_bytes = 0
        push(run, state, run.now, RESUME)
