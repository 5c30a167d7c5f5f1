"""Published figures of arrays: TiC-SAT's instructions, peaks, and what pruned tiles save there."""

import pytest
from wav2vec2_gemms import LAYERS

from cosim.chip import load_chip
from cosim.config import configs_root
from hwmodels.mapping import resident_bytes
from hwmodels.tightly_coupled import Coupling, product_instructions

# Custom instructions of TiC-SAT (gem5-X/TiC-SAT 5b48d53) for wav2vec2-base on 10 s of audio with 8
# bits, dense, convolutions by im2col, in units of 1e9 and to the digits tabulated; and
# multiply-accumulates per instruction.
TIC_SAT = {4: (4.70, 15.7), 8: (2.39, 30.9), 16: (1.24, 59.9), 32: (0.667, 111)}
MACS = 74_074_000_000


def custom(size, *, share=1.0, bits=8, layers=tuple(LAYERS), pruned=()):
    """Return the custom instructions of `layers`; `pruned` ones keep a `share` of their tiles."""
    total = 0
    for name in layers:
        (m, n, k), times = LAYERS[name]
        tiles = -(-n // size) * -(-k // size)
        kept = round(share * tiles) if name in pruned else tiles
        sizes = {"m": m, "n": n, "k": k, "a_bits": bits, "w_bits": bits}
        total += times * product_instructions(size, Coupling(), **sizes, occupied=kept).custom
    return total


@pytest.mark.parametrize("size", TIC_SAT)
def test_wav2vec2_base_takes_the_tabulated_instructions_of_tic_sat(size):
    billions, macs_each = TIC_SAT[size]
    count = custom(size)
    digits = 3 if billions < 1 else 2
    assert round(count / 1e9, digits) == billions
    assert macs_each <= MACS / count < macs_each + (1 if macs_each > 100 else 0.1)  # cut off


def test_a_tightly_coupled_array_is_bound_by_its_bus_at_four_times_its_size():
    # a words of 32 / 8 values per instruction times R products each: 4 R when nothing else counts
    for size, (_, macs_each) in TIC_SAT.items():
        assert 0.85 * 4 * size < macs_each < 4 * size


def test_pruned_feed_forward_tiles_save_the_share_of_instructions_they_had():
    # SASP (Palacios et al., GLSVLSI 2025, arXiv 2411.10285v2): up to 44 % system-wide speed-up by
    # pruning tiles of the size of the array and quantisation, at 1.4 % word error rate lost. It
    # prunes feed-forward layers of a smaller speech encoder and counts the whole system in gem5;
    # here are the instructions of wav2vec2-base's array alone, so the figures stand beside each
    # other, they are not the same.
    for size in (4, 8, 16, 32):
        dense = custom(size)
        feed_forward = custom(size, layers=("ff1", "ff2"))
        saved = 1 - custom(size, share=0.5, pruned=("ff1", "ff2")) / dense
        assert saved == pytest.approx(feed_forward / dense / 2, rel=1e-3)
        # Half of the feed-forward tiles gone is more than a fifth of all instructions gone.
        assert 0.15 < saved < 0.25


def test_the_edge_tpu_has_its_published_peak_and_keeps_six_million_parameters():
    # Coral data sheets: 4 TOPS of 8-bit integers, about 8 MB on chip that cache parameters; models
    # made for it are held below 6 M parameters.
    chip = load_chip(configs_root() / "hardware" / "edge_tpu_64.yaml").architecture
    array = chip.array
    assert 2 * array.rows * array.columns * array.clock_hz == pytest.approx(4e12, rel=0.02)
    assert 6.0e6 <= resident_bytes(chip.buffers.weight.size_bytes) < 6.5e6


def test_four_quarters_of_a_tpu_v4i_make_its_published_peak():
    # Jouppi et al., ISCA 2021: 138 tera-operations per second of four 128 x 128 arrays, 614 GB/s.
    chip = load_chip(configs_root() / "hardware" / "tpuv4i_quarter_128.yaml")
    array = chip.architecture.array
    assert 4 * 2 * array.rows * array.columns * array.clock_hz == pytest.approx(138e12, rel=0.01)
    channels = chip.architecture.memory.channels
    peak = 4 * channels * chip.technology.peak_bytes_per_s.value
    assert peak == pytest.approx(614e9, rel=0.05)
