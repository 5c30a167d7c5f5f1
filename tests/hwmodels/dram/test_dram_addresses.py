"""Address maps: the bits that a text names, and no two addresses at one place."""

from dataclasses import replace

import numpy as np
import pytest
from dram_traces import memories, memory
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.dram.address import locate
from hwmodels.dram.controller import simulate, trace
from hwmodels.dram.policy import POLICIES

HBM2 = memory("hbm2_2000")


def by_hand(address):
    """Return channel, bank, row, column of HBM2: ch3 pc1 bg2 co5 ba2 row15 over 32-byte bursts."""
    line = address // 32
    fields = {}
    for name, width in (
        ("channel", 3),
        ("pseudo", 1),
        ("group", 2),
        ("column", 5),
        ("bank", 2),
        ("row", 15),
    ):
        fields[name] = line % (1 << width)
        line //= 1 << width
    bank = fields["pseudo"] * 16 + fields["group"] * 4 + fields["bank"]
    return [fields["channel"], bank, fields["row"], fields["column"]]


@settings(max_examples=50, deadline=None)
@given(addresses=st.lists(st.integers(0, (1 << 33) - 1), min_size=1, max_size=20))
def test_the_map_of_hbm2_takes_its_fields_from_the_lowest_bits_up(addresses):
    assert locate(HBM2, np.array(addresses)).tolist() == [by_hand(a) for a in addresses]


def hashed(text, **folded):
    """Return a map with fields folded into others."""
    return " ".join("^".join((word, *folded.get(word, ()))) for word in text.split())


@pytest.mark.parametrize("name", memories("hbm2_2000", "ddr4_3200_2rank"))
@pytest.mark.parametrize("channels", [None, 5])
@pytest.mark.parametrize("is_hashed", [False, True])
def test_no_two_bursts_meet_and_every_place_is_reached(name, channels, is_hashed):
    spec = memory(name)
    o = replace(spec.organisation, rows=4)  # small enough for all of it
    o = replace(o, channels=channels or o.channels)
    words = (
        spec.address_map if "channel" in spec.address_map.split() else f"{spec.address_map} channel"
    )
    if is_hashed:
        folded = {"bank": ("row",), "bank_group": ("column", "row"), "channel": ("row", "column")}
        words = hashed(words, **folded)
    spec = replace(spec, organisation=o, address_map=words)
    places = locate(spec, np.arange(0, o.capacity_bytes, o.burst_bytes))
    sizes = (o.channels, o.banks_per_channel, o.rows, o.columns)
    flat = np.ravel_multi_index(tuple(places.T), sizes)
    assert np.unique(flat).size == flat.size == np.prod(sizes)


@settings(max_examples=40, deadline=None)
@given(
    addresses=st.lists(st.integers(0, (1 << 34) - 1), min_size=1, max_size=10),
    channels=st.sampled_from([3, 5, 6, 7]),
)
def test_channels_of_any_number_take_the_remainder_of_a_division(addresses, channels):
    # one bit of the column stays below the channel; above it the quotient goes on as always
    text = "row bank column bank_group pseudo_channel channel^row column:1"
    organisation = replace(HBM2.organisation, channels=channels)
    spec = replace(HBM2, organisation=organisation, address_map=text)
    expected = []
    for address in addresses:
        line = address // 32 % (organisation.capacity_bytes // 32)
        line, low = divmod(line, 2)
        line, channel = divmod(line, channels)
        line, pseudo = divmod(line, 2)
        line, group = divmod(line, 4)
        line, high = divmod(line, 16)
        row, bank = divmod(line, 4)
        place = pseudo * 16 + group * 4 + bank
        expected.append([(channel + row) % channels, place, row, 2 * high + low])
    assert locate(spec, np.array(addresses)).tolist() == expected


@pytest.mark.parametrize("channels", [3, 5])
def test_a_stream_keeps_any_number_of_channels_equally_busy(channels):
    spec = replace(HBM2, organisation=replace(HBM2.organisation, channels=channels))
    policy = replace(POLICIES["ramulator2"], refresh="none")
    stats = simulate(spec, policy, trace(np.arange(4000) * 32))
    assert np.ptp(np.bincount(stats.channel)) <= 1
    assert stats.bandwidth_bytes_per_s(400) == pytest.approx(spec.peak_bytes_per_s, rel=0.01)


def test_a_split_field_takes_its_low_bits_from_its_last_part():
    split = replace(HBM2, address_map="row column bank bank_group pseudo_channel channel column:2")
    lines = np.array([0, 1, 3, 4, 1 << 10, 1 << 13])
    places = locate(split, lines * 32)
    assert places[:, 3].tolist() == [0, 1, 3, 0, 4, 0]
    assert places[:, 0].tolist() == [0, 0, 0, 1, 0, 0]
    assert places[5].tolist() == [0, 0, 1, 0]


def test_a_hash_folds_all_bits_of_its_source():
    folded = replace(HBM2, address_map=hashed(HBM2.address_map, channel=("row",)))
    row = HBM2.organisation.capacity_bytes // HBM2.organisation.rows
    rows = np.array([0, 1, 7, 8, 9, 0b101_011_110])
    assert locate(folded, rows * row)[:, 0].tolist() == [0, 1, 7, 1, 0, 0b101 ^ 0b011 ^ 0b110]
    assert locate(HBM2, rows * row)[:, 0].tolist() == [0] * 6


def test_addresses_inside_a_burst_mean_it_and_those_beyond_the_end_begin_again():
    end = HBM2.organisation.capacity_bytes
    np.testing.assert_array_equal(
        locate(HBM2, np.array([31, 32, end, end + 95])), locate(HBM2, np.array([0, 32, 0, 64]))
    )


@pytest.mark.parametrize("stride", [256, 4096])
def test_hashing_frees_strides_that_fall_on_few_channels(stride):
    # Without it a stride of 256 sees one channel of eight, and one of 4096 few banks of it.
    policy = replace(POLICIES["ramulator2"], refresh="none")
    requests = trace(np.arange(20_000) * stride)
    plain = simulate(HBM2, policy, requests).bandwidth_bytes_per_s(2000)
    fields = ("column", "bank", "row")
    text = hashed(HBM2.address_map, channel=fields, pseudo_channel=("column",))
    folded = replace(HBM2, address_map=text)
    better = simulate(folded, policy, requests).bandwidth_bytes_per_s(2000)
    assert plain < 0.126 * HBM2.peak_bytes_per_s
    assert better > 4 * plain


def test_the_order_of_fields_decides_half_of_a_stream():
    # Column bits lowest keep a stream in one bank group: tCCD_L instead of tCCD_S.
    requests = trace(np.arange(40_000) * 32)
    shares = []
    for text in (
        "row bank column bank_group pseudo_channel channel",
        "row bank bank_group pseudo_channel column channel",
    ):
        stats = simulate(replace(HBM2, address_map=text), POLICIES["ramulator2"], requests)
        shares.append(stats.bandwidth_bytes_per_s(4000) / HBM2.peak_bytes_per_s)
    assert shares[0] > 0.89
    assert shares[1] == pytest.approx(0.5, abs=0.06)
