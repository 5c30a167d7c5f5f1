"""The cache guard, the plain path of other CPUs, and what an import costs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from kernels import jit
from kernels.memory import aligned_zeros

ROOT = Path(__file__).resolve().parents[2]

GENERATOR = """
from llvmlite import ir
from kernels.simd import tile, I64
@tile(1)
def write(w, address):
    w.store(I64({value}), address)
"""
JITTED = """
import numpy as np
from numba import int64
from kernels.jit import entry, out1
from kernels.generator import write
@entry(out1(int64))
def read(out):
    write(out.ctypes.data)
    return out[0]
"""


def _python(code: str, folder: Path, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment, capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_changed_generator_in_another_file_is_compiled_anew(tmp_path):
    package = tmp_path / "kernels"
    package.mkdir()
    for name in ("__init__", "jit", "simd"):
        (package / f"{name}.py").write_text((ROOT / "kernels" / f"{name}.py").read_text())
    (package / "reader.py").write_text(JITTED)
    code = (
        "import numpy as np; from kernels.reader import read; "
        "print(read(np.zeros(1, np.int64)), sum(read.ready().stats.cache_hits.values()))"
    )
    seen = []
    for value in (1, 1, 2):
        (package / "generator.py").write_text(GENERATOR.format(value=value))
        seen.append(_python(code, tmp_path))
    assert seen == ["1 0", "1 1", "2 0"]


def test_a_fingerprint_covers_what_a_file_imports_and_nothing_else():
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
    assert _python(code, ROOT, COSIM_GENERIC_KERNELS="1") == "right"


def test_importing_the_package_loads_nothing_heavy():
    code = """
import sys, kernels
assert kernels.__cosim_kernels__ == 1
print(sorted({"numpy", "numba", "torch", "llvmlite"} & set(sys.modules)))
"""
    assert _python(code, ROOT) == "[]"


def test_kernels_know_neither_torch_nor_the_layers_above():
    code = """
import sys, importlib, pathlib
for path in sorted(pathlib.Path("kernels").glob("*.py")):
    importlib.import_module(f"kernels.{path.stem}")
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted({"torch", "cosim", "hwmodels", "simpy"} & loaded))
"""
    assert _python(code, ROOT) == "[]"


def test_aligned_arrays_start_on_a_cache_line():
    for size in (1, 7, 64, 1000):
        array = aligned_zeros((size, 3), np.float32)
        assert array.ctypes.data % 64 == 0
        assert not array.any()
