"""hwmodels.flat: compiled code gives the time line of the SimPy machine, to the event."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import process_time
from unittest.mock import patch

import numpy as np
import pytest
from hw_samples import feed_forward, gemm, tensor, vector
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st
from numba import njit

from cosim.chip import load_chip
from hwmodels import service_fit, simulate
from hwmodels.architecture import Buffer, MappingChoice, MemoryStack
from hwmodels.bandwidth import Watch
from hwmodels.dram.interleave import spread
from hwmodels.dram.jit import fingerprint, first
from hwmodels.flat import machine as compiled
from hwmodels.flat.memory import service_fs
from hwmodels.flat.patterns import MOVE, FlatPatterns
from hwmodels.flat.state import CHANNEL
from hwmodels.layout import place
from hwmodels.machine import run
from hwmodels.memory import Channels, Descriptor
from hwmodels.memory import service_fs as service_fs_in_python
from hwmodels.pattern import Patterns, setting
from hwmodels.simulate import plan_workload, simulate_calls
from hwmodels.workload import Runs, Transfer, Workload

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CHIPS = sorted(path.stem for path in (CONFIGS / "hardware").glob("*.yaml"))
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@contextmanager
def compared():
    """Compare each plan that compiled code runs with the SimPy machine; yields their outcomes."""
    outcomes, run_compiled = [], compiled.run_compiled

    def both(plan, architecture, channels, patterns):
        found = run_compiled(plan, architecture, channels, patterns)
        expected = run([plan], architecture, channels)
        assert found.events == expected.events
        assert found.memory == expected.memory
        assert list(found.memory) == list(expected.memory)
        for own, other in zip(found.timelines, expected.timelines, strict=True):
            assert own.records == other.records
            assert own.cycles == other.cycles
        assert found == expected
        outcomes.append(found)
        return found

    with patch.object(compiled, "run_compiled", both):
        yield outcomes


def planned(items, chip, memory):
    """Return the plan of one call, and the channels of its memory."""
    workload = Workload("w", tuple(items))
    (layout,) = place([workload], chip, memory)
    patterns = Patterns(setting(chip, memory))
    plan = plan_workload(workload, chip, patterns=patterns, layout=layout)
    return plan, patterns.setting.channels


def step(past, d=64):
    """Return what a decoding step does to its cache."""
    x, q = tensor("x", "input", (1, d)), tensor("q", "activation", (1, d))
    cache = tensor("cache", "state", (past + 1, d), reserved_bits=64 * d * 8)
    scores = tensor("scores", "activation", (1, past + 1), 32)
    p, c = tensor("p", "activation", (1, past + 1)), tensor("c", "output", (1, d), 32)
    return Workload(
        f"step {past}",
        (
            gemm("q", 1, d, d, a=x, w=tensor("q.w", "constant", (d, d)), result=q),
            Transfer("append", "cache", (q,), (cache,), d, d),
            gemm("scores", 1, past + 1, d, a=q, w=cache, result=scores),
            vector("softmax", "softmax", (scores,), (p,)),
            gemm("context", 1, d, past + 1, a=p, w=cache, result=c),
        ),
    )


def heads(frames, count=3, width=16):
    """Return products of heads that lie side by side in each frame: rows with a pitch."""
    d = count * width
    apart = Runs(width, d, width)
    q = tensor("q", "input", (frames, d), runs=apart)
    k = tensor("k", "input", (frames, d), runs=apart)
    scores = tensor("s", "output", (count, frames, frames), 32)
    return Workload(
        "heads", (gemm("s", frames, frames, width, count=count, a=q, w=k, result=scores),)
    )


@pytest.mark.parametrize("name", CHIPS)
def test_every_shipped_chip_on_the_roofline_has_the_time_line_of_simpy(name, shipped):
    architecture, technology, energy = shipped(name)
    calls = [feed_forward(70, 200, 300), heads(90), step(3), step(4), feed_forward(1, 200, 300)]
    with compared() as outcomes:
        simulate_calls(calls, architecture, technology=technology, energy=energy)
    assert len(outcomes) == len(calls)
    assert sum(outcome.events for outcome in outcomes) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stacked_edge_32", "stacked_server_128"])
def test_an_utterance_of_whisper_has_the_time_line_of_simpy(name):
    from cosim.artefact import build_from  # noqa: PLC0415 (brings torch)
    from cosim.calls import Caller  # noqa: PLC0415

    model = CONFIGS / "models" / "whisper_tiny_en.yaml"
    artefact = build_from(model, CONFIGS / "recipes" / "w8a8.yaml", is_zipped=False)
    chip = load_chip(
        CONFIGS / "hardware" / f"{name}.yaml", assignments=["memory.fidelity=roofline"]
    )
    calls = Caller(artefact).utterance(30.0, [1] * 3)
    with compared() as outcomes:
        simulate_calls(calls, chip.architecture, technology=chip.technology, energy=chip.energy)
    assert len(outcomes) == len(calls)
    assert outcomes[0].events > 500


SIZES = st.one_of(st.sampled_from([1, 2, 7, 33]), st.integers(1, 40))
PRODUCT = st.tuples(SIZES, SIZES, SIZES, st.integers(1, 3), st.booleans())
PORT = st.sampled_from([None, 1, 3, 64])


def chain(products):
    """Return products, each with a fused op, a vector op on its result and a write of that."""
    items = []
    for number, (m, n, k, count, is_fused) in enumerate(products):
        y = tensor(f"y{number}", "activation", (count, m, n), 32)
        z = tensor(f"z{number}", "output", (count, m, n), 32)
        state = tensor(f"s{number}", "state", (count, m, n), 32)
        items += [
            gemm(f"g{number}", m, n, k, count=count, result=y),
            vector(f"e{number}", "gelu", (y,), (y,), is_fused=is_fused),
            Transfer(f"t{number}", "cache", (y,), (state,), y.size_bytes, y.size_bytes),
            vector(f"v{number}", "softmax", (state,), (z,)),
        ]
    return items


@given(
    products=st.lists(PRODUCT, min_size=1, max_size=4),
    size=st.sampled_from([256, 1024, 1 << 14]),
    output=st.sampled_from([256, 1024, 1 << 14]),
    ports=st.tuples(PORT, PORT, PORT),
    prefetch=st.sampled_from([None, 1, 2, 5]),
    channels=st.integers(1, 5),
    bus=st.sampled_from([(1, 64), (16, 64), (32, 256), (12, 20)]),
    rate=st.sampled_from([None, 1e9, 8e9, 3.3e10]),
    latency=st.sampled_from([0.0, 1e-9, 1.07e-7]),
    clocks=st.sampled_from([(1e9, 1e9), (7e8, 4e8), (1e9, 3e9)]),
    schedule=st.sampled_from(["serial", "double_buffered"]),
    fusion=st.sampled_from(["chunks", "marked"]),
)
@example(
    products=[(33, 40, 40, 3, True)] * 2,
    size=1024,
    output=1024,
    ports=(3, 3, 3),
    prefetch=2,
    channels=3,
    bus=(12, 20),
    rate=1e9,
    latency=1.07e-7,
    clocks=(7e8, 4e8),
    schedule="double_buffered",
    fusion="marked",
)
@settings(SHARED, max_examples=60)
def test_any_work_on_any_chip_has_the_time_line_of_simpy(
    make_chip,
    make_memory,
    table,
    *,
    products,
    size,
    output,
    ports,
    prefetch,
    channels,
    bus,
    rate,
    latency,
    clocks,
    schedule,
    fusion,
):
    chip = make_chip(
        3, 4, schedule, channels=channels, clock_hz=clocks[0], vector_clock_hz=clocks[1]
    )
    buffers = zip((size, size, output), ports, strict=True)
    parts = [Buffer(size_bytes, port) for size_bytes, port in buffers]
    chip = replace(
        chip,
        buffers=replace(chip.buffers, input=parts[0], weight=parts[1], output=parts[2]),
        memory=replace(chip.memory, prefetch=prefetch),
        mapping=MappingChoice(fusion=fusion),
    )
    memory = make_memory(channels, bandwidth=rate, latency=latency, burst=bus[0], interleave=bus[1])
    calls = [Workload(name, tuple(chain(products))) for name in ("one", "two")]
    try:
        with compared() as outcomes:
            simulate_calls(calls, chip, technology=memory, energy=table)
    except ValueError:  # a buffer has no room for what a step needs
        reject()
    assert len(outcomes) == len(calls)


@pytest.mark.parametrize("port", [None, 2])
@pytest.mark.parametrize("rate", [None, 1e9, 3.3e10])
@pytest.mark.parametrize(("elements", "share"), [(200, 0.25), (300, 0.25), (500, 0.5), (800, 0.9)])
def test_tensors_that_have_to_go_first_have_the_time_line_of_simpy(
    make_chip, make_memory, elements, share, rate, port
):
    # `a` is kept for the last op, and the ops between have no room beside it.
    names = "wxabcyz"
    kinds = (*["input"] * 2, *["activation"] * 3, *["output"] * 2)
    w, x, a, b, c, y, z = (tensor(*one, (elements,)) for one in zip(names, kinds, strict=True))
    reads, writes = (w, x, b, c, a), (a, b, c, y, z)
    items = [
        vector(f"v{number}", "softmax", (read,), (written,))
        for number, (read, written) in enumerate(zip(reads, writes, strict=True))
    ]
    mapping = MappingChoice(fusion="marked", resident_share=share)
    chip = replace(make_chip(size=2048, port=port, vector_clock_hz=7e8), mapping=mapping)
    memory = make_memory(2, bandwidth=rate)
    plan, channels = planned(items, chip, memory)
    assert any(group.spills for group in plan.groups)
    found = compiled.run_compiled(plan, chip, channels, FlatPatterns())
    assert found == run([plan], chip, channels)


ROWS = st.tuples(st.integers(0, 5000), st.integers(0, 300), st.integers(0, 700), st.integers(1, 40))


@njit
def shares(chip, moves, origin, channels):
    return spread(chip, first(channels), moves[0], origin)


@given(
    rows=ROWS,
    origin=st.integers(0, 1 << 40),
    channels=st.integers(1, 9),
    burst=st.sampled_from([1, 12, 16, 32, 64]),
    interleave=st.sampled_from([1, 20, 64, 256]),
)
@example(rows=(7, 64, 192, 1500), origin=4096, channels=8, burst=32, interleave=256)
@SHARED
def test_descriptors_fall_on_channels_as_in_python(
    make_memory, make_chip, rows, origin, channels, burst, interleave
):
    memory = make_memory(channels, bandwidth=1e15, burst=burst, interleave=interleave)
    known = Channels(MemoryStack("test", channels), memory)
    descriptor = Descriptor(*rows)
    expected = known.share(descriptor, origin=origin)
    chip = compiled._chip(make_chip(channels=channels), known)
    found = np.zeros(channels, CHANNEL)
    moves = np.array([(0, *rows, 0)], MOVE)
    assert shares(chip, moves, origin, found) == expected.moved_bytes
    moved = replace(descriptor, base=descriptor.base + origin)
    assert known.moved_bytes(moved) == expected.moved_bytes
    busy = tuple((number, size) for number, size in enumerate(found["bytes"].tolist()) if size)
    assert busy == expected.busy  # one byte takes one femtosecond


@given(
    size=st.one_of(st.integers(0, 1 << 12), st.integers(0, 1 << 50)),
    rate=st.one_of(st.sampled_from([1e9, 8e9, 3.3e10]), st.floats(1e6, 1e13)),
    efficiency=st.floats(0.01, 1),
)
@settings(SHARED, max_examples=500)
def test_channels_are_busy_for_as_long_as_in_python(make_memory, size, rate, efficiency):
    memory = make_memory(bandwidth=rate)
    memory = replace(memory, efficiency=replace(memory.efficiency, value=efficiency))
    expected = service_fs_in_python(memory, size)
    if expected < compiled.LONGEST_FS:
        assert service_fs(rate * efficiency, size) == expected
    assert service_fs(0.0, size) == 0


def many(number, size=1000):
    """Return vector ops on inputs that can all be fetched at once."""
    return [
        vector(
            f"v{i}",
            "gelu",
            (tensor(f"x{i}", "input", (size,)),),
            (tensor(f"y{i}", "output", (size,)),),
        )
        for i in range(number)
    ]


def test_times_of_descriptors_may_add_up_to_more_than_64_bits_hold(make_chip, make_memory):
    # 50 inputs and outputs of 1000 bytes at 100 bytes per second: each takes 10^16 fs, and the
    # inputs are all asked for at once.
    memory = make_memory(bandwidth=100.0, latency=0.0)
    plan, channels = planned(many(50), make_chip(size=1 << 19), memory)
    found = compiled.run_compiled(plan, make_chip(size=1 << 19), channels, FlatPatterns())
    assert found == run([plan], make_chip(size=1 << 19), channels)
    assert found.memory["input"]["total_fs"] > 1 << 63


def test_what_may_take_longer_than_64_bits_hold_is_left_to_simpy(make_chip, make_memory, table):
    memory = make_memory(bandwidth=1.0, latency=0.0)
    plan, channels = planned(many(60), make_chip(), memory)
    assert compiled.run_compiled(plan, make_chip(), channels, FlatPatterns()) is None
    (stats,) = simulate_calls(
        [Workload("w", tuple(many(60)))], make_chip(), technology=memory, energy=table
    )
    outcome = run([plan], make_chip(), channels)
    assert stats.simpy_events == outcome.events


def test_a_plan_that_waits_for_a_write_that_never_comes_is_a_fault(make_chip, make_memory):
    x, out = tensor("x", "input", (10,), 32), tensor("out", "output", (10,), 32)
    cache = tensor("cache", "state", (10,), 32)
    items = [
        Transfer("append", "cache", (x,), (cache,), 40, 40),
        vector("copy", "copy", (cache,), (out,)),
    ]
    plan, channels = planned(items, make_chip(), make_memory())
    plan.groups[0].targets[0].written.stores += 1
    with pytest.raises(RuntimeError):
        run([plan], make_chip(), channels)
    with pytest.raises(RuntimeError, match="nothing is left to happen"):
        compiled.run_compiled(plan, make_chip(), channels, FlatPatterns())


def test_no_work_takes_no_time(make_chip, make_memory):
    plan, channels = planned([], make_chip(), make_memory())
    found = compiled.run_compiled(plan, make_chip(), channels, FlatPatterns())
    assert found == run([plan], make_chip(), channels)
    assert found.timelines[0].cycles == ()


def test_patterns_are_turned_into_arrays_once(make_chip, make_memory):
    plan, channels = planned(
        [gemm("one", 3, 5, 4), gemm("two", 3, 5, 4)], make_chip(), make_memory()
    )
    patterns = FlatPatterns()
    outcomes = [compiled.run_compiled(plan, make_chip(), channels, patterns) for _ in range(3)]
    assert outcomes[0] == outcomes[1] == outcomes[2] == run([plan], make_chip(), channels)
    assert patterns.patterns.size == 1
    assert patterns.steps.size == len(plan.groups[0].pattern.steps)


@pytest.mark.parametrize("what", ["watch", "priority", "cores"])
def test_others_are_left_to_simpy(what, make_chip, make_memory, table):
    chip = make_chip(arbitration="priority" if what == "priority" else "fifo")
    chip = replace(chip, cores=replace(chip.cores, count=2 if what == "cores" else 1))
    watch = Watch() if what == "watch" else None
    with compared() as outcomes:
        simulate_calls([feed_forward()], chip, technology=make_memory(), energy=table, watch=watch)
    assert not outcomes


def test_compiled_code_is_three_times_as_fast(shipped):
    architecture, technology, _ = shipped("stacked_edge_32")
    plan, channels = planned(feed_forward(700, 384, 1536).items, architecture, technology)
    known = FlatPatterns()
    sides = {
        "simpy": lambda: run([plan], architecture, channels),
        "compiled": lambda: compiled.run_compiled(plan, architecture, channels, known),
    }
    seconds = {name: [] for name in sides}
    for _ in range(6):  # in turns, the first of which compiles
        for name, side in sides.items():
            start = process_time()
            side()
            seconds[name].append(process_time() - start)
    assert min(seconds["simpy"]) > 3 * min(seconds["compiled"])


def test_compiled_code_is_loaded_once_there_is_enough_to_do(make_chip, make_memory, table):
    calls = [Workload(name, (gemm("g", 40, 40, 8, count=3),)) for name in ("one", "two", "three")]
    parts = {"technology": make_memory(), "energy": table}
    plan, _ = planned(calls[0].items, make_chip(size=256), parts["technology"])
    steps = sum(len(group.pattern.steps) for group in plan.groups)
    with (
        compared() as outcomes,
        patch.object(simulate, "LEAST_STEPS", 2 * steps),
        patch.object(simulate, "COMPILED", "not loaded"),
    ):
        simulate_calls(calls, make_chip(size=256), **parts)
    assert len(outcomes) == 2


def test_machine_code_is_made_anew_when_any_file_of_its_package_changes(tmp_path):
    own, other = compiled.execute._cache._mark, service_fit._search._cache._mark
    assert own == fingerprint(Path(compiled.__file__).parent) != fingerprint() == other
    marks = [fingerprint.__wrapped__(tmp_path)]
    for text in ("one = 1", "one = 2"):
        (tmp_path / "helpers.py").write_text(text)
        marks.append(fingerprint.__wrapped__(tmp_path))
    assert len(set(marks)) == 3
