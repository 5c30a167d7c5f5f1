"""hwmodels.memory: bandwidth, latency and arbitration against closed forms."""

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.architecture import MemoryStack
from hwmodels.memory import BusShape, Channels, Descriptor, MemoryServer, channel_bytes

NS = 10**6  # femtoseconds


def serve(memory, submissions, *, channels=1, arbitration="fifo"):
    """Submit (nanosecond, descriptor) pairs; return nanoseconds of completion and the server."""
    env = simpy.Environment()
    server = MemoryServer(
        env, Channels(MemoryStack("test", channels, arbitration=arbitration), memory)
    )
    ends = {}

    def submit(at, number, descriptor):
        yield env.timeout(at * NS)
        yield server.submit(descriptor).wait()
        ends[number] = env.now / NS

    for number, (at, descriptor) in enumerate(submissions):
        env.process(submit(at, number, descriptor))
    env.run()
    return [ends[number] for number in range(len(submissions))], server


def test_one_descriptor_takes_its_bytes_at_peak_bandwidth_and_one_latency(make_memory):
    # 8 bytes per ns: 800 bytes take 100 ns, and the last arrives 10 ns later.
    ends, server = serve(make_memory(), [(0, Descriptor(0, 800, requester="w"))])
    assert ends == [110]
    stats = server.statistics["w"]
    assert (stats.descriptors, stats.read_bytes, stats.write_bytes) == (1, 800, 0)
    assert (stats.queued_fs, stats.total_fs) == (0, 110 * NS)


def test_latencies_overlap_and_bandwidth_is_shared(make_memory):
    work = [(0, Descriptor(0, 800)), (0, Descriptor(800, 800)), (50, Descriptor(1600, 80))]
    ends, _ = serve(make_memory(), work)
    assert ends == [110, 210, 220]


def test_addresses_rotate_over_channels(make_memory):
    memory = make_memory(channels=4)
    whole, _ = serve(memory, [(0, Descriptor(0, 4 * 64))], channels=4)
    assert whole == [8 + 10]  # 64 bytes on each of four channels
    same, _ = serve(memory, [(0, Descriptor(0, 64, stride=256, rows=4))], channels=4)
    assert same == [32 + 10]  # all rows on channel 0
    apart = [(0, Descriptor(0, 64)), (0, Descriptor(64, 64))]
    assert serve(memory, apart, channels=4)[0] == [18, 18]


def test_priority_goes_first_among_those_that_wait(make_memory):
    work = [
        (0, Descriptor(0, 800, priority=2)),
        (1, Descriptor(0, 80, priority=1)),
        (2, Descriptor(0, 80, priority=0)),
    ]
    assert serve(make_memory(), work)[0] == [110, 120, 130]
    assert serve(make_memory(), work, arbitration="priority")[0] == [110, 130, 120]


def test_writes_and_reads_are_counted_apart(make_memory):
    work = [
        (0, Descriptor(0, 8, is_write=True, requester="o")),
        (0, Descriptor(0, 16, requester="o")),
    ]
    _, server = serve(make_memory(), work)
    stats = server.statistics["o"]
    assert (stats.write_bytes, stats.read_bytes) == (8, 16)


def test_an_ideal_memory_takes_no_time(make_memory):
    ends, _ = serve(make_memory(bandwidth=None, latency=0.0), [(3, Descriptor(5, 10**9))])
    assert ends == [3]


@given(
    channels=st.integers(1, 5),
    burst=st.sampled_from([1, 4, 32]),
    turns=st.integers(1, 4),
    base=st.integers(0, 3000),
    size=st.integers(1, 700),
    stride=st.integers(0, 900),
    rows=st.integers(1, 5),
)
def test_shares_of_channels_equal_counting_bursts(channels, burst, turns, base, size, stride, rows):
    shape = BusShape(channels, burst, burst * turns)
    descriptor = Descriptor(base, size, stride=max(stride, size), rows=rows)
    runs = [(base + row * descriptor.stride, size) for row in range(rows)]
    if descriptor.stride == size:
        runs = [(base, size * rows)]
    counted = [0] * channels
    for start, length in runs:
        for number in range(start // burst, -(-(start + length) // burst)):
            counted[number * burst // (burst * turns) % channels] += burst
    assert list(channel_bytes(shape, descriptor)) == counted
    assert sum(counted) >= descriptor.size_bytes


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_long_stream_reaches_efficiency_times_peak(make_memory, channels):
    memory = make_memory(channels=channels)
    size = 64 * channels * 1000
    work = [(0, Descriptor(i * size, size)) for i in range(10)]
    ends, _ = serve(memory, work, channels=channels)
    assert ends[-1] - 10 == pytest.approx(10 * size / (8 * channels))
