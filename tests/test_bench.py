"""cosim bench: what its cases are, what a row says, and what is skipped."""

import importlib
import json

import numpy as np
import pytest
from silent import Silent

from cosim import bench
from cosim.bench import cases, linear, matrices, measure, others, peers, peers_onnx, targets, whole
from cosim.bench.cases import NUMPY, OURS, QUANTIZING, TORCH, AbsentError, Case, Plan, Side
from cosim.errors import CosimError
from kernels import harness
from kernels.harness import Sample
from kernels.peaks import Peak

PLANS = bench.plans()


# --- cases ------------------------------------------------------------------------------------


def test_ids_are_unique_and_name_kernel_shape_rows_and_state():
    ids = [plan.id for plan in PLANS]
    assert len(set(ids)) == len(ids)
    for name in ("w8a8/768x3072-T499", "csr_80/256x2048-T16", "w4a8/3072x768-T1-cold"):
        assert name in ids
    assert [plan.id for plan in bench.plans(threads=2) if "w8a8/512x2048-T100" in plan.id] == [
        "w8a8/512x2048-T100@2"
    ]


def test_a_filter_takes_what_contains_it():
    found = cases.chosen(PLANS, "w1a1/")
    assert len(found) == 5 * 5
    assert {plan.kernel for plan in found} == {"w1a1"}


def test_every_goal_has_its_cases():
    with_goal = {
        plan.kernel
        for plan in PLANS
        if targets.target_of(plan.kernel, plan.shape, is_cold=plan.is_cold) is not None
    }
    assert with_goal == set(targets.TARGETS) | set(targets.NARROW)
    assert targets.target_of("w1a1", "256x2048-T499", is_cold=False) == 6.0
    assert targets.target_of("w1a1", "256x2048-T100", is_cold=False) is None
    assert targets.target_of("w4a8", "512x2048-T1", is_cold=True) == 9.0
    assert targets.target_of("w4a8", "512x2048-T1", is_cold=False) is None
    assert targets.target_of("gelu", "3072-T499", is_cold=False) is None


# what quantisation of Gaussian weights and activations may cost at most, by bits
ERRORS = {"f32": 1e-6, "w8": 0.02, "w4": 0.2, "w3": 0.35, "w2": 0.7, "w1": 1.2}


@pytest.mark.parametrize("name", linear.FORMS)
def test_a_form_computes_the_layer_up_to_its_quantisation(name):
    form = linear.FORMS[name]
    try:
        case = linear.case_of(form, (256, 64, 5))
    except AbsentError as error:
        pytest.skip(str(error))
    size = name[:2] if name[0] == "w" else "w8" if "_i8" in name else "f32"
    error = measure._errors(case)[OURS]
    assert error < ERRORS[size]
    if form.activation != "f32" or form.matrix is not linear.plain:
        assert error > 1e-4  # what was quantised cannot be exact
    assert case.work <= case.operations == 2 * 256 * 64 * 5


def test_quantising_gives_the_same_codes_as_the_case_was_given():
    case = linear.case_of(linear.FORMS["w8a8"], (64, 32, 3))
    before = case.sides[OURS].output().copy()
    case.sides[QUANTIZING].run()
    np.testing.assert_allclose(case.sides[OURS].output(), before, atol=0.05)


def test_cold_weights_are_many_layers_in_memory_of_their_own(monkeypatch):
    layers, bind = [], linear.panels.bind

    def noted(panel, *arguments, **options):
        layers.append(panel)
        return bind(panel, *arguments, **options)

    monkeypatch.setattr(linear.panels, "bind", noted)
    case = linear.case_of(linear.FORMS["w8a8"], (512, 512, 1), is_cold=True)
    del layers[len(case.sides[OURS].runs) :]  # the same again, quantising
    assert len(layers) * layers[0].nbytes >= 64 << 20
    weights = [
        max(layer.arguments, key=lambda item: getattr(item, "nbytes", 0)) for layer in layers
    ]
    assert len({array.ctypes.data for array in weights}) == len(layers)
    assert all((array == weights[0]).all() for array in weights)
    assert len(case.sides[NUMPY].runs) * 512 * 512 * 4 >= 64 << 20


def test_a_form_without_kernel_is_told_by_name():
    form = linear.Form("odd", ("i5",), "i8", "fma", linear.plain)
    with pytest.raises(AbsentError, match="reads i5 weights with i8 activations"):
        linear.case_of(form, (8, 8, 1))


# --- matrices ---------------------------------------------------------------------------------


def test_codes_by_row_are_better_than_those_of_the_largest_value():
    weight = matrices.gaussian(8, 256, seed=1)
    for bits in (2, 3, 4):
        limit = 2 ** (bits - 1) - 1
        matrix = matrices.codes_by_row(weight, bits)
        assert abs(matrix.values).max() <= limit
        step = abs(weight).max(axis=1, keepdims=True) / limit
        naive = np.rint(weight / step) * step
        found = matrix.values * matrix.scale
        assert np.square(found - weight).sum() < np.square(naive - weight).sum()


def test_codes_by_group_are_within_a_step_and_hold_zero():
    weight = matrices.gaussian(4, 256, seed=1) + np.float32(0.05)
    matrix = matrices.codes_by_group(weight, 4, 128)
    assert (matrix.values.min(), matrix.values.max()) == (-8, 7)
    assert matrix.zero_point.dtype == np.int8
    scale, zero = (
        np.repeat(a.astype(np.float64), 128, axis=1) for a in (matrix.scale, matrix.zero_point)
    )
    assert (abs((matrix.values - zero) * scale - weight) <= scale * 1.001).all()


def test_pruning_takes_whole_blocks_the_smallest_first():
    weight = matrices.gaussian(64, 64, seed=2)
    for block in ((1, 1), (16, 1), (4, 4), (32, 32)):
        kept = matrices.pruned(weight, 0.75, block) != 0
        blocks = kept.reshape(64 // block[0], block[0], 64 // block[1], block[1])
        assert kept.mean() == pytest.approx(0.25)
        assert (blocks.all(axis=(1, 3)) == blocks.any(axis=(1, 3))).all()
    two = matrices.pruned_n_of_m(weight, 2, 4).reshape(64, 16, 4)
    assert ((two != 0).sum(axis=2) == 2).all()


def test_bits_of_activations_are_packed_lowest_first():
    x = np.array([[0.5, -1.0, 2.0, -3.0, 0.5, 0.5, 0.5, 0.5, 1.0]], np.float32)
    signed = matrices.quantized(x, "b1")
    assert signed.x.tolist() == [[0b11110101, 1]]
    assert signed.scale == pytest.approx([np.abs(x).mean()])
    assert matrices.quantized(x, "u1").scale == pytest.approx([x[x >= 0].mean()])
    assert abs(matrices.quantized(x, "i7").x).max() == 63


# --- peers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_computes_the_same_layer(name):
    weight, x = matrices.gaussian(96, 256, 3), matrices.activations(5, 256, 3)
    try:
        side = peers.side(name, weight, x, threads=1, copies=1)
    except AbsentError as error:
        pytest.skip(str(error))
    exact = x.astype(np.float64) @ weight.T
    error = np.linalg.norm(side.output() - exact) / np.linalg.norm(exact)
    assert error < (1e-6 if peers.PEERS[name].stored_bits >= 32 else 0.9)


def test_an_absent_peer_is_named_and_the_case_goes_on(monkeypatch):
    def absent(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    case = linear.case_of(linear.FORMS["w4a8"], (64, 32, 2))
    assert set(case.sides) == {OURS, QUANTIZING, NUMPY}
    assert "torch: torch is not installed (No module named 'torch')" in case.notes
    assert any(note.startswith("onnxruntime_int4_a8: onnx is not installed") for note in case.notes)


def test_a_broken_peer_is_a_note_and_no_end(monkeypatch):
    def broken(*_):
        raise RuntimeError("illegal\nlong trace")

    row = peers.Peer("odd", "oddlib", 8, broken)
    monkeypatch.setattr(peers, "PEERS", {"odd": row})
    with pytest.raises(AbsentError, match=r"^oddlib failed: illegal$"):
        peers.side("odd", np.zeros((1, 1)), np.zeros((1, 1)), threads=1, copies=1)


@pytest.mark.parametrize("bits", [2, 4])
def test_blocks_for_onnxruntime_decode_to_the_nearest_code(bits):
    weight = matrices.gaussian(3, 64, 5)
    packed, scale = peers_onnx.packed_blocks(weight, bits)
    assert packed.shape == (3, 2, 32 * bits // 8)
    shifts = np.arange(0, 8, bits)
    codes = (packed[..., np.newaxis] >> shifts) & (2**bits - 1)
    values = (codes.reshape(3, 2, 32) - 2.0 ** (bits - 1)) * scale[..., np.newaxis]
    error = abs(values - weight.reshape(3, 2, 32)) / abs(scale[..., np.newaxis])
    assert error.max() <= 1.001  # the value opposite to the largest may be one step short
    assert np.median(error) <= 0.5


# --- rows -------------------------------------------------------------------------------------

PEAKS = {
    name: Peak(name, name, rate)
    for name, rate in (("fma", 100e9), ("L2", 80e9), ("L3", 40e9), ("DRAM", 10e9))
}


def small_case(**changes):
    fields = {
        "sides": {OURS: Side([lambda: None]), TORCH: Side([lambda: None])},
        "operations": 4_000_000,
        "work": 1_000_000,
        "size_bytes": 100_000,
        "weight_bytes": 50_000,
        "limit": "fma",
        "kernel_used": "some",
    }
    return Case(**(fields | changes))


def fixed(monkeypatch, seconds):
    def alternate(calls, **_):
        return {name: Sample(seconds[name]) for name in calls}

    monkeypatch.setattr(harness, "alternate", alternate)


def test_a_row_has_ratios_rates_and_the_share_of_what_is_left_to_do(monkeypatch):
    fixed(monkeypatch, {OURS: (20e-6, 10e-6, 40e-6), TORCH: (40e-6, 40e-6, 80e-6)})
    row = measure.row_of(Plan("csr", "8x8-T2", small_case), small_case(), PEAKS, rounds=3)
    assert row["ratio_torch"] == 2.0
    assert row["ratio_torch_interval"] == [2.0, 4.0, 0.75]
    assert row["ratio_numpy"] is None
    assert row["gops"] == pytest.approx(4e6 / 20e-6 / 1e9)  # dense product, median
    assert row["share_of_limit"] == pytest.approx(1e6 / 10e-6 / 100e9)  # work, best
    assert (row["limit"], row["limit_gops"]) == ("fma", 100.0)
    assert row["operations_per_byte"] == 10.0
    assert row["peers"][TORCH]["ratio_ours"] == 2.0
    json.dumps(row)


def test_the_limit_is_the_lower_of_instructions_and_the_memory_that_holds_the_data(monkeypatch):
    monkeypatch.setattr(measure, "cache_sizes", lambda: {"L2": 200_000, "L3": 1_000_000})

    def limit(size, *, is_cold=False, work=1_000_000):
        case = small_case(size_bytes=size, work=work)
        return measure._limit(Plan("a", "b", small_case, is_cold=is_cold), case, PEAKS)

    assert limit(100_000) == ("fma", 100e9)  # 10 operations a byte
    assert limit(100_000, work=100_000) == ("L2", 80e9)  # one a byte
    assert limit(500_000, work=500_000) == ("L3", 40e9)
    assert limit(5_000_000, work=5_000_000) == ("DRAM", 10e9)
    assert limit(100_000, work=100_000, is_cold=True) == ("DRAM", 10e9)


def test_errors_are_relative_to_float64():
    exact = np.array([[3.0, 4.0]])
    found = np.array([[3.0, 4.5]])
    sides = {OURS: Side([lambda: None], lambda: found), TORCH: Side([lambda: None])}
    assert measure._errors(small_case(sides=sides, exact=lambda: exact)) == {OURS: 0.1}


def test_a_break_even_lies_where_the_ratio_crosses_one_for_good():
    assert others.break_even({0.1: 1.2, 0.2: 0.8, 0.3: 1.2, 0.4: 2.0}) == 0.25
    assert others.break_even({0.1: 0.5, 0.2: 0.9}) is None
    assert others.break_even({0.1: 1.5, 0.2: 1.9}) == 0.1


def test_network_rows_compare_sums_over_inputs_round_by_round(monkeypatch):
    now = [0.0]

    def engine(seconds, answer):
        def run(one):
            now[0] += seconds * one
            return answer(one)

        return run

    monkeypatch.setattr(whole, "process_time", lambda: now[0])
    engines = {
        "torch": engine(4.0, lambda one: (one, one)),
        "mine": engine(1.0, lambda one: (one, one) if one < 3 else (one,)),
        "peer": engine(2.0, lambda one: (one, one)),
    }
    (row,) = whole.network_rows(
        "net", "small", engines, ours=["mine"], inputs=[1.0, 2.0, 3.0], rounds=2
    )
    assert (row["kernel"], row["ratio_torch"], row["seconds"]) == ("net_mine", 4.0, 2.0)
    assert row["error"] == pytest.approx(1 / 3)
    assert row["length_ratio"] == pytest.approx(5 / 6)
    assert row["peers"]["peer"] == {"ratio_torch": 2.0, "ratio_ours": 2.0, "error": 0.0}


# --- the verb ---------------------------------------------------------------------------------


def test_what_is_missing_is_skipped_what_breaks_is_told_and_the_rest_is_measured(monkeypatch):
    def absent():
        raise AbsentError("no such kernel")

    def broken():
        raise ZeroDivisionError("by zero")

    made = [Plan("a", "1-T1", absent), Plan("b", "1-T1", broken), Plan("c", "1-T1", small_case)]
    monkeypatch.setattr(bench, "plans", lambda _threads: made)
    monkeypatch.setattr(bench.peaks, "calibrate", lambda: PEAKS)
    found = bench.bench("-T1", rounds=1, progress=Silent())
    assert [row["case"] for row in found.rows] == ["c/1-T1"]
    assert found.total["skipped"] == [{"case": "a/1-T1", "note": "no such kernel"}]
    assert found.failed == ["b/1-T1: ZeroDivisionError: by zero"]
    for key in ("cpu", "caches_bytes", "load_average", "load_average_after", "versions", "peaks"):
        assert key in found.total


def test_an_unknown_case_is_the_users_mistake():
    with pytest.raises(CosimError, match="no case contains 'w9a9'"):
        bench.bench("w9a9", rounds=1, progress=Silent())


def test_a_saved_benchmark_comes_back_and_a_damaged_one_is_refused(tmp_path):
    row = dict.fromkeys(bench._NEEDED, 1.0)
    path = tmp_path / "bench.json"
    bench.save(bench.Bench([row], {"cpu": "x"}), path)
    assert bench.load(path) == bench.Bench([row], {"cpu": "x"})
    for text, problem in (
        ("{", "not JSON"),
        ("[]", "found list"),
        ('{"schema": 1, "rows": [{}], "total": {}}', "rows.0.: kernel, shape"),
        ('{"schema": 7, "rows": [], "total": {}}', "schema: found 7"),
        ('{"schema": 1, "total": {}}', "rows: missing"),
    ):
        path.write_text(text)
        with pytest.raises(CosimError, match=problem):
            bench.load(path)
    with pytest.raises(CosimError, match="cannot be read"):
        bench.load(tmp_path / "none.json")
