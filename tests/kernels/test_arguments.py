"""Arguments that do not fit raise before anything is written, for whatever is registered."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import every_kernel as every
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import attention, panels, pointwise
from kernels import encodings as enc
from kernels.registry import KERNELS

Arrays = dict[str, object]
REFUSED = (ValueError, TypeError)


# --- ways in which an array may be wrong ----------------------------------------------------


def _misaligned(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    made = raw[1:].view(a.dtype).reshape(a.shape)
    made[...] = a
    return made


def _strided(a: np.ndarray) -> np.ndarray:
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def _reversed(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a[..., ::-1])[..., ::-1]


def _read_only(a: np.ndarray) -> np.ndarray:
    made = a.copy()
    made.flags.writeable = False
    return made


def _longer(a: np.ndarray, axis: int, by: int) -> np.ndarray:
    shape = list(a.shape)
    shape[axis] += by
    return np.resize(a, shape)


OTHER_TYPES = {
    np.dtype(np.float32): (np.float64, np.int32, np.float16),
    np.dtype(np.int8): (np.uint8, np.int16, np.bool_),
    np.dtype(np.uint8): (np.int8, np.uint16, np.bool_),
    np.dtype(np.int64): (np.float64, np.uint8, np.bool_),
}


def spoilt(a: np.ndarray, *, is_output: bool = False) -> dict[str, Callable[[], object]]:
    """Ways to break an array whose sizes are all 2 or more, by name."""
    ways: dict[str, Callable[[], object]] = {
        "a list": a.tolist,
        "a number": lambda: 1.0,
        "one more dimension": lambda: a[None],
        "one dimension less": lambda: a[0],
        "empty": lambda: a[..., :0],
        "read-only": partial(_read_only, a),
        "strided": partial(_strided, a),
        "reversed": partial(_reversed, a),
    }
    if not is_output:
        del ways["read-only"]
    for axis in range(a.ndim):
        for by in (-1, 1, 64):
            ways[f"axis {axis} {by:+}"] = partial(_longer, a, axis, by)
    for dtype in OTHER_TYPES[a.dtype]:
        ways[f"{np.dtype(dtype)}"] = partial(a.astype, dtype)
    if a.itemsize > 1:
        ways["misaligned"] = partial(_misaligned, a)
        ways["foreign byte order"] = partial(a.astype, a.dtype.newbyteorder())
    return ways


@dataclass(frozen=True)
class Call:
    """A function and arguments that fit it, each array with sizes of 2 or more."""

    run: Callable[[Arrays], object]
    arrays: Arrays
    outputs: tuple[str, ...]
    any_stride: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()

    def spoilt_by(self) -> Iterator[tuple[str, str]]:
        """Yield argument and way: what must be refused."""
        for name, array in self.arrays.items():
            for way in spoilt(array, is_output=name in self.outputs):
                if way in {"strided", "reversed"} and name in self.any_stride:
                    continue
                if way == "empty" and name in self.optional:
                    continue
                yield name, way

    def check(self, name: str, way: str) -> None:
        """Assert that the spoilt call is refused and writes nothing."""
        arrays = {key: array.copy() for key, array in self.arrays.items()}
        bad = spoilt(arrays[name], is_output=name in self.outputs)[way]()
        before = {key: array.tobytes() for key, array in arrays.items()}
        kept = bad.tobytes() if isinstance(bad, np.ndarray) else None
        with pytest.raises(REFUSED):
            self.run({**arrays, name: bad})
        assert {key: array.tobytes() for key, array in arrays.items()} == before
        assert kept is None or bad.tobytes() == kept

    def check_all(self) -> None:
        """Assert that the right call runs and that every spoilt one is refused."""
        self.run({key: array.copy() for key, array in self.arrays.items()})
        wrong = []
        for name, way in self.spoilt_by():
            try:
                self.check(name, way)
            except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 (all in one list)
                wrong.append(f"{name}, {way}: {type(error).__name__} {str(error)[:100]}")
        assert not wrong, "\n".join(wrong)


# --- linear layers --------------------------------------------------------------------------

N, K, T = 18, 70, 5


def linear_call(name: str, *, ending: str = "plain", rows: int = T, n: int = N, k: int = K) -> Call:
    """Return a linear layer of a kernel with all its operands, ending in one of several ways."""
    row = KERNELS[name]
    panel = every.panel_for(row, every.matrix_for(row, n, k, seed=1))
    operand = every.operand_for(row, rows, k, seed=2)
    arrays: Arrays = {"x": operand.x, "bias": np.ones(n, np.float32)}
    if operand.x_scale is not None:
        arrays["x_scale"] = operand.x_scale
    width = n // 2 if ending == "glu" else n
    arrays |= {
        "plain": {"out": np.zeros((rows, n), np.float32)},
        "residual": {
            "out": np.zeros((rows, n), np.float32),
            "residual": np.ones((rows, n), np.float32),
        },
        "glu": {"out": np.zeros((rows, width), np.float32)},
        "row": {
            "codes": np.zeros((rows, n), np.int8),
            "codes_scale": np.zeros(rows, np.float32),
            "out": np.zeros((rows, n), np.float32),
        },
    }[ending]
    more = {"glu": {"activation": "glu"}, "row": {"quantize": "row"}}.get(ending, {})

    def run(given: Arrays) -> None:
        panels.linear(panel, given["x"], **{k: v for k, v in given.items() if k != "x"}, **more)

    optional = ("bias", "residual", *(("out",) if ending == "row" else ()))
    outputs = ("out", "codes", "codes_scale")
    return Call(run, arrays, outputs, ("x_scale",), optional)


ENDINGS = ("plain", "residual", "glu", "row")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", every.USABLE)
def test_a_linear_layer_refuses_arrays_that_do_not_fit(name, ending):
    linear_call(name, ending=ending).check_all()


@settings(max_examples=60)
@given(
    name=st.sampled_from(every.USABLE),
    ending=st.sampled_from(ENDINGS),
    rows=st.integers(2, 99),
    half=st.integers(1, 40),
    k=st.integers(2, 200),
    data=st.data(),
)
def test_no_shape_lets_a_wrong_array_through(name, ending, rows, half, k, data):
    call = linear_call(name, ending=ending, rows=rows, n=2 * half, k=k)
    where, way = data.draw(st.sampled_from(sorted(call.spoilt_by())))
    if (rows, where, way) == (2, "x_scale", "axis 0 -1"):
        return  # one scale for all rows
    if where == "x" and way.startswith("axis 1") and KERNELS[name].activation in {"b1", "u1"}:
        return  # as many bytes may hold the bits
    call.check(where, way)


@pytest.mark.parametrize("name", every.USABLE)
def test_nan_in_a_scale_of_activations_is_refused(name):
    call = linear_call(name)
    if "x_scale" not in call.arrays:
        pytest.skip("float activations have no scale")
    for place in (0, T - 1):
        scale = call.arrays["x_scale"].copy()
        scale[place] = np.nan
        out = np.full((T, N), 7, np.float32)
        with pytest.raises(ValueError, match="NaN"):
            call.run({**call.arrays, "x_scale": scale, "out": out})
        assert (out == 7).all()


@pytest.mark.parametrize("name", every.USABLE)
def test_codes_outside_their_range_are_refused(name):
    limit = {"i8": 127, "i7": 63}.get(KERNELS[name].activation)
    if limit is None:
        pytest.skip("any value is allowed")
    call = linear_call(name)
    for code in {-128, -limit - 1, min(limit + 1, 127)} - {limit}:
        for place in ((0, 0), (T - 1, K - 1), (2, 33)):
            x = call.arrays["x"].copy()
            x[place] = code
            out = np.full((T, N), 7, np.float32)
            with pytest.raises(ValueError, match="code"):
                call.run({**call.arrays, "x": x, "out": out})
            assert (out == 7).all()


@pytest.mark.parametrize("name", every.USABLE)
def test_a_missing_or_needless_scale_is_refused(name):
    call = linear_call(name)
    without = {key: array for key, array in call.arrays.items() if key != "x_scale"}
    if "x_scale" in call.arrays:
        with pytest.raises(REFUSED):
            call.run(without)
    without.pop("out")
    with pytest.raises(REFUSED):  # nowhere to write to
        call.run({**call.arrays, "out": None})


@pytest.mark.parametrize("name", every.USABLE)
@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", None])
def test_a_number_of_threads_that_cannot_be_is_refused(name, threads):
    call = linear_call(name)
    x = call.arrays["x"]
    row = KERNELS[name]
    panel = every.panel_for(row, every.matrix_for(row, N, K, seed=1))
    out = np.full((T, N), 7, np.float32)
    with pytest.raises(REFUSED):
        panels.linear(panel, x, out, x_scale=call.arrays.get("x_scale"), threads=threads)
    assert (out == 7).all()


@pytest.mark.parametrize("name", every.USABLE)
def test_results_that_overlap_operands_are_refused(name):
    call = linear_call(name, ending="residual")
    memory = np.zeros((T, 4 * (N + K)), np.float32)
    x = call.arrays["x"]
    columns = x.shape[1]
    inside = memory.view(x.dtype)[:, 4 : 4 + columns]
    inside[...] = x
    cases = {"x": (inside, memory[:, :N])}
    residual = memory[:, N : 2 * N]
    cases["residual"] = (residual, memory[:, N + 1 : 2 * N + 1])
    rows = np.lib.stride_tricks.as_strided(memory, (T, N), (4, 4))
    for where, (operand, out) in cases.items():
        before = memory.copy()
        with pytest.raises(REFUSED):
            call.run({**call.arrays, where: operand, "out": out})
        np.testing.assert_array_equal(memory, before)
    with pytest.raises(REFUSED):  # rows of the result overlap one another
        call.run({**call.arrays, "out": rows})


@pytest.mark.parametrize("change", [{"activation": "gulp"}, {"quantize": "rows"}])
def test_a_misspelt_ending_is_refused(change):
    panel = panels.prepare_linear(enc.encode_dense(np.ones((3, 4), np.float32)), rows=2)
    with pytest.raises(ValueError, match="expected one of"):
        panels.linear(panel, np.ones((2, 4), np.float32), np.empty((2, 3), np.float32), **change)


@pytest.mark.parametrize("change", [{"rows": 0}, {"kernel_size": 3}, {"activation": "f16"}])
def test_a_panel_that_cannot_be_prepared_says_why(change):
    e = enc.encode_dense(np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match=r"prepare_linear.*expected"):
        panels.prepare_linear(e, **{"rows": 2, **change})


# --- what is not a linear layer -------------------------------------------------------------


@pytest.mark.parametrize("name", every.USABLE)
def test_an_embedding_refuses_arrays_that_do_not_fit(name):
    row = KERNELS[name]
    panel = every.panel_for(row, every.matrix_for(row, N, K, seed=1))
    ids, out = np.array([3, 0, N - 1]), np.zeros((3, K), np.float32)

    def run(given: Arrays) -> None:
        panels.embedding(panel, given["ids"], given["out"])

    call = Call(run, {"ids": ids, "out": out}, ("out",), ("ids", "out"))
    call.check_all()
    for bad in (-1, N):
        with pytest.raises(ValueError, match="ids"):
            panels.embedding(panel, np.array([0, bad, 1]), out)
    assert not out.any()


HEADS, LENGTH, DEPTH = 3, 9, 16


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def _codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).integers(-127, 128, shape).astype(np.int8)


def _attention_f32(given: Arrays) -> None:
    attention.attention_f32(given["q"], given["k"], given["v"], 0.25, given["out"])


def _attention_i8(given: Arrays) -> None:
    names = ("q", "q_scale", "k", "k_scale", "v", "v_scale")
    attention.attention_i8(*(given[name] for name in names), 0.25, given["out"])


def _in_order(function: Callable[..., object]) -> Callable[[Arrays], None]:
    return lambda given: function(*given.values())


ROWS_OUT = {"x": _floats(T, K), "out": np.zeros((T, K), np.float32)}
OTHERS = {
    "attention_f32": Call(
        _attention_f32,
        {
            "q": _floats(HEADS, T, DEPTH),
            "k": _floats(HEADS, LENGTH, DEPTH),
            "v": _floats(HEADS, LENGTH, DEPTH),
            "out": np.zeros((T, HEADS * DEPTH), np.float32),
        },
        ("out",),
    ),
    "attention_i8": Call(
        _attention_i8,
        {
            "q": _codes(HEADS, T, DEPTH),
            "q_scale": np.abs(_floats(HEADS, T)),
            "k": _codes(HEADS, LENGTH, DEPTH),
            "k_scale": np.abs(_floats(HEADS, LENGTH)),
            "v": _codes(HEADS, LENGTH, DEPTH),
            "v_scale": np.abs(_floats(HEADS)),
            "out": np.zeros((T, HEADS * DEPTH), np.float32),
        },
        ("out",),
        ("q_scale", "k_scale", "v_scale"),
    ),
    "add": Call(
        _in_order(pointwise.add), {"a": _floats(T, K), "b": _floats(T, K), **ROWS_OUT}, ("out",)
    ),
    "dynamic_quantize_row": Call(
        _in_order(pointwise.dynamic_quantize_row),
        {
            "x": _floats(T, K),
            "codes": np.zeros((T, K), np.int8),
            "scale": np.zeros(T, np.float32),
        },
        ("codes", "scale"),
        ("scale",),
    ),
    **{
        name: Call(_in_order(getattr(pointwise, name)), ROWS_OUT, ("out",))
        for name in ("relu", "gelu", "silu", "tanh", "sigmoid", "softmax")
    },
}
del OTHERS["add"].arrays["x"]


@pytest.mark.parametrize("name", OTHERS)
def test_attention_and_pointwise_functions_refuse_arrays_that_do_not_fit(name):
    OTHERS[name].check_all()
