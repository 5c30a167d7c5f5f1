"""hwmodels.pattern: ops of equal shape are planned once, and sharing changes no result."""

from dataclasses import replace

import pytest
from hw_samples import feed_forward, figure, gemm, tensor, vector
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.architecture import MemoryStack, MemoryTechnology
from hwmodels.layout import place
from hwmodels.machine import run
from hwmodels.memory import Channels, Descriptor
from hwmodels.pattern import Patterns, setting
from hwmodels.simulate import plan_workload, simulate
from hwmodels.workload import Workload

ONE = figure(1e9)
BURSTS = MemoryTechnology("t", 4, 1 << 20, 16, 64, "test", ONE, ONE, figure(1.0), *[ONE] * 4)


def test_ops_of_equal_shape_share_steps_and_keep_their_own_tensors(make_chip, make_memory):
    chip, memory = make_chip(), make_memory()
    items = (gemm("one", 3, 5, 4), gemm("two", 3, 5, 4), gemm("other", 3, 5, 5))
    workload = Workload("w", items)
    (layout,) = place([workload], chip, memory)
    plan = plan_workload(workload, chip, patterns=Patterns(setting(chip, memory)), layout=layout)
    one, two, other = plan.groups
    assert one.pattern is two.pattern is not other.pattern
    for group, item in zip(plan.groups, items, strict=True):
        assert [source.address for source in group.sources] == [
            layout.base(item.a),
            layout.base(item.w),
        ]
        assert [target.address for target in group.targets] == [layout.base(item.result)]
    assert one.targets[0].written is not two.targets[0].written


@pytest.mark.parametrize("size", [256, 4096])
@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
def test_known_patterns_give_the_time_line_of_new_ones(size, schedule, make_chip, make_memory):
    chip, memory = make_chip(schedule=schedule, size=size, port=3), make_memory(channels=2)
    known = Patterns(setting(chip, memory))
    for m in (4, 4, 2, 4):
        workload = feed_forward(m)
        (layout,) = place([workload], chip, memory)
        found = []
        for patterns in (known, Patterns(setting(chip, memory))):
            plan = plan_workload(workload, chip, patterns=patterns, layout=layout)
            outcome = run([plan], chip, patterns.setting.channels)
            found.append((outcome, plan.tallies))
        assert found[0] == found[1]


@given(
    base=st.integers(0, 2000),
    origin=st.integers(0, 5000),
    size=st.integers(1, 900),
    stride=st.integers(0, 900),
    rows=st.integers(1, 4),
    channels=st.integers(1, 4),
)
def test_a_descriptor_counts_from_its_origin(base, origin, size, stride, rows, channels):
    known = Channels(MemoryStack("test", channels), BURSTS)
    part = Descriptor(base, size, stride=stride, rows=rows)
    whole = Descriptor(base + origin, size, stride=stride, rows=rows)
    assert known.share(part, origin=origin) == known.share(whole)
    assert known.share(part, origin=origin) is known.share(part, origin=origin)


def masked(m, n, k):
    y = tensor("y", "output", (m, n), 32)
    mask = tensor("mask", "constant", (m, n), 32)
    add = vector("add", "add", (y, mask), (y,), is_fused=True)
    return Workload("w", (gemm("g", m, n, k, result=y), add))


def test_tiles_are_halved_until_what_fused_ops_read_fits(make_chip, make_memory, table):
    # The weight buffer of 256 bytes streams 2 x 96 and keeps the weights. Half of the output buffer
    # holds all 90 results, but these need 360 bytes of mask. Halved three times, 256 bytes hold 10
    # rows of 6: two tiles of 7 and 8 rows, and 8 x 6 results need the 192 bytes of mask. Without
    # the mask nothing asks for less than all rows: a panel is as narrow as a fold, and fewer than
    # ten rows would not hide how weights shift in.
    parts = {"technology": make_memory(), "energy": table}
    chip = make_chip(10, 6, size=256, output_size=4096)
    bare = replace(masked(15, 6, 2), items=masked(15, 6, 2).items[:1])
    assert simulate(bare, chip, **parts).layers[0].mapping.endswith("m15 n6 k2")
    stats = simulate(masked(15, 6, 2), chip, **parts)
    assert stats.layers[0].mapping.endswith("m8 n6 k2")
    assert stats.layers[1].traffic.dram_read == 360
    assert stats.cycles.total == sum(layer.cycles.total for layer in stats.layers)


def test_fused_operands_that_never_fit_are_an_error(make_chip, make_memory, table):
    # Even one row of 16 columns needs 64 bytes of mask, streamed through 2 x 24 bytes.
    chip = make_chip(1, 16, size=64, output_size=4096)
    text = "weight buffer: one step with its fused ops needs 64 bytes, the streaming part holds 48"
    with pytest.raises(ValueError, match=text):
        simulate(masked(1, 16, 1), chip, technology=make_memory(), energy=table)
