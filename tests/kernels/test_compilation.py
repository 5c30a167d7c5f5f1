"""The cache guard, the plain path of other CPUs, and what an import costs."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from every_kernel import ROOT, python

from kernels import jit
from kernels.memory import aligned_zeros

CONSTANTS = "STEP = {value}\n"
GENERATOR = """
from kernels.simd import tile, I64
from kernels.constants import STEP
@tile(1)
def write(w, address):
    w.store(I64(STEP), address)
"""
HELPER = """
from kernels.jit import compiled
from kernels.generator import write
@compiled
def write_there(out):
    write(out.ctypes.data)
"""
JITTED = """
from numba import int64, prange
from kernels.jit import entry, out1
from kernels.helper import write_there
@entry(out1(int64))
def read(out):
    write_there(out)
    for i in prange(out.size - 1):
        out[1 + i] = out[0] * (1 + i)
    return out[0]
"""


@pytest.fixture
def package(tmp_path):
    """A package of an entry, whose helper's tile holds a constant of a fourth file."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for name in ("__init__", "jit", "simd"):
        (folder / f"{name}.py").write_text((ROOT / "kernels" / f"{name}.py").read_text())
    for name, text in (("generator", GENERATOR), ("helper", HELPER), ("reader", JITTED)):
        (folder / f"{name}.py").write_text(text)
    return folder


def test_a_changed_generator_in_another_file_is_compiled_anew(package):
    code = (
        "import numpy as np; from kernels.reader import read; "
        "print(read(np.zeros(1, np.int64)), sum(read.ready().stats.cache_hits.values()))"
    )
    seen = []
    for value in (1, 1, 2, 1):
        (package / "constants.py").write_text(CONSTANTS.format(value=value))
        seen.append(python(code, package.parent))
    assert seen == ["1 0", "1 1", "2 0", "1 1"]


RUN = """
import os, sys
import numpy as np
from kernels.reader import read
for kind in sys.argv[1:]:
    before = len(os.listdir("/proc/self/task"))
    made = read.ready() if kind == "serial" else read.ready_parallel()
    out = np.zeros(5, np.int64)
    made(out)
    assert out.tolist() == [3, 3, 6, 9, 12], out
    has_threads = len(os.listdir("/proc/self/task")) > before
    print(kind, has_threads, sum(made.stats.cache_hits.values()))
"""


def _kinds(package: Path, *kinds: str) -> list[str]:
    """Run the entry serially or on threads; say for each if threads began and what was cached."""
    start = f"import sys; sys.argv = ['', *{kinds}]; exec(open('run.py').read())"
    threads = {"NUMBA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    return python(start, package.parent, **threads).splitlines()


@pytest.mark.slow
def test_serial_and_parallel_code_of_one_function_are_cached_apart(package):
    (package / "constants.py").write_text(CONSTANTS.format(value=3))
    (package.parent / "run.py").write_text(RUN)
    assert _kinds(package, "serial", "parallel") == ["serial False 0", "parallel True 0"]
    assert _kinds(package, "parallel") == ["parallel True 1"]
    assert _kinds(package, "serial", "parallel") == ["serial False 1", "parallel True 1"]


def test_code_read_before_an_edit_is_not_kept_for_the_edited_file(package):
    constants = package / "constants.py"
    constants.write_text(CONSTANTS.format(value=1))
    late = """
import pathlib
import numpy as np
from kernels.reader import read
pathlib.Path("kernels/constants.py").write_text("STEP = 2")
print(read(np.zeros(1, np.int64)))
"""
    assert python(late, package.parent) == "1"
    code = "import numpy as np; from kernels.reader import read; print(read(np.zeros(1, np.int64)))"
    assert python(code, package.parent) == "2"


@pytest.mark.slow
def test_data_that_processes_swapped_in_the_cache_is_not_run(package):
    (package / "constants.py").write_text(CONSTANTS.format(value=3))
    (package.parent / "run.py").write_text(RUN)
    assert _kinds(package, "serial", "parallel") == ["serial False 0", "parallel True 0"]
    one, two = sorted((package / "__pycache__").glob("reader.read-*.nbc"))
    swapped = one.read_bytes(), two.read_bytes()
    two.write_bytes(swapped[0])
    one.write_bytes(swapped[1])
    assert _kinds(package, "serial", "parallel") == ["serial False 0", "parallel True 0"]
    assert _kinds(package, "serial", "parallel") == ["serial False 1", "parallel True 1"]


def _imported(path: Path) -> set[Path]:
    """Files of the package that a file imports itself, by its syntax tree."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    inside = [name.split(".")[1:] for name in names if name.startswith("kernels.")]
    files = [path.parent.joinpath(*parts) for parts in inside]
    return {file.with_suffix(".py") for file in files if file.with_suffix(".py").is_file()}


def test_a_fingerprint_covers_all_that_a_compiled_file_imports():
    for path in sorted((ROOT / "kernels").glob("*.py")):
        if not re.search(r"^@(compiled|entry|tile|intrinsic)", path.read_text(), re.MULTILINE):
            continue
        found, waiting = set(), [path]
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting += _imported(current)
        missing = {file.stem for file in found - jit._sources(path)}
        assert not missing, f"{path.name}: {missing}"


def test_a_fingerprint_leaves_out_what_a_file_does_not_import():
    names = {path.stem for path in jit._sources(ROOT / "kernels" / "lowbit.py")}
    assert {"lowbit", "lowbit_tiles", "activations", "simd", "jit"} <= names
    assert "pointwise" not in names


def test_without_avx2_plain_loops_run_and_say_so():
    code = """
import numpy as np
from kernels import attention, encodings as enc, panels, reference
rng = np.random.default_rng(0)
codes = rng.integers(-7, 8, (21, 35)).astype(np.int8)
scale = rng.uniform(0.1, 1, (21, 1)).astype(np.float32)
x = rng.integers(-127, 128, (5, 35)).astype(np.int8)
x_scale = np.ones(5, np.float32)
out = np.empty((5, 21), np.float32)
for bits in (8, 4):
    panel = panels.prepare_linear(
        enc.encode_bitpacked(codes, scale, bits=bits), rows=5, activation="i8"
    )
    assert panel.kernel == "generic_i8" and "AVX2" in panel.reason, panel
    panels.linear(panel, x, out, x_scale=x_scale)
    assert (out == reference.linear_i8(x, codes, x_scale, scale[:, 0])).all()
values = rng.standard_normal((21, 35)).astype(np.float32)
for encoding in (enc.encode_dense(values), enc.encode_csr(values), enc.encode_bitmap(values)):
    panel = panels.prepare_linear(encoding, rows=5)
    panels.linear(panel, x.astype(np.float32), out)
    expected = reference.linear_f32(x.astype(np.float32), values)
    assert panel.kernel.startswith("generic") and "AVX2" in panel.reason
    np.testing.assert_allclose(out, expected, atol=1e-2, rtol=1e-5)
q, k, v = rng.standard_normal((3, 2, 9, 16)).astype(np.float32)
y = np.empty((9, 32), np.float32)
attention.attention_f32(q, k, v, 0.25, y)
np.testing.assert_allclose(y, reference.attention_f32(q, k, v, 0.25), atol=1e-5)
codes = rng.integers(-127, 128, (3, 2, 9, 16)).astype(np.int8)
one = np.full(1, 0.02, np.float32)
attention.attention_i8(codes[0], one, codes[1], one, codes[2], one, 0.25, y)
full = np.full((2, 9), 0.02, np.float32)
expected = reference.attention_i8(
    codes[0], full, codes[1], full, codes[2], full[:, 0], 0.25
)
np.testing.assert_allclose(y, expected, atol=2e-2)
print("right")
"""
    assert python(code, COSIM_GENERIC_KERNELS="1") == "right"


def test_importing_the_package_loads_nothing_heavy():
    code = """
import sys, kernels
assert kernels.__cosim_kernels__ == 1
print(sorted({"numpy", "numba", "torch", "llvmlite"} & set(sys.modules)))
"""
    assert python(code) == "[]"


def test_kernels_know_neither_torch_nor_the_layers_above():
    code = """
import sys, importlib, pathlib
for path in sorted(pathlib.Path("kernels").glob("*.py")):
    importlib.import_module(f"kernels.{path.stem}")
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted({"torch", "cosim", "hwmodels", "simpy"} & loaded))
"""
    assert python(code) == "[]"


def test_aligned_arrays_start_on_a_cache_line():
    for size in (1, 7, 64, 1000):
        array = aligned_zeros((size, 3), np.float32)
        assert array.ctypes.data % 64 == 0
        assert not array.any()


WHISPER = """
import sys, time
sys.path.insert(0, "tests")
import numpy as np
import small_whisper
from numba.core import event
from cosim.models.whisper import WhisperDimensions

small_whisper.DIMENSIONS = WhisperDimensions(
    width=384, heads=6, encoder_layers=1, decoder_layers=1, hidden=1536, mels=80,
    vocabulary=5000, source_positions=1500, target_positions=448,
)  # the shapes of tiny.en, one layer each
from cosim.execute import ProgramEngine, Weights
encodings = {f"@{k}": v for k, v in small_whisper.encodings(quantized=True).items()}
weights = Weights(small_whisper.program(quantized=True), encodings)
with event.install_recorder("numba:compile") as recorder:
    start = time.process_time()
    engine = ProgramEngine(weights, length=3000)
    features = np.random.default_rng(0).standard_normal((80, 3000)).astype(np.float32)
    engine.encode(features)
    for past, token in enumerate((3, 17, 30)):
        engine.step(token, past)
    seconds = time.process_time() - start
spent, begun = {}, []
for stamp, found in recorder.buffer:
    function = found.data["dispatcher"].py_func
    name = f"{function.__module__}.{function.__qualname__}"
    if found.is_start:
        begun.append(stamp)
    else:
        spent.setdefault(name, []).append(stamp - begun.pop())
print(f"{len(spent)} functions compiled, {seconds:.1f} s of CPU time in all")
for name in sorted(spent, key=lambda name: -sum(spent[name])):
    print(f"{sum(spent[name]):6.2f} s in {len(spent[name])} forms of {name}")
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing_of_what_whisper_needs(record_property):
    """The first process compiles what the user's own cache does not hold yet.

    The properties (``--junit-xml``) say what that was and how long it took. Seconds of single
    functions are on the clock, with those of the functions that they call.
    """
    first, second = (python(WHISPER, OMP_NUM_THREADS="1") for _ in range(2))
    record_property("first process", first)
    record_property("second process", second)
    assert second.startswith("0 functions compiled")
