"""Whoever waits for a compiler is told so, once, and not when the cache has the code."""

import os
import subprocess
import sys

from cosim.report.terminal import TerminalProgress
from kernels import COMPILE_LISTENERS

PROGRAM = """
import numpy as np
from cosim.report.terminal import TerminalProgress
from kernels import pointwise
x = np.ones((2, 3), np.float32)
with TerminalProgress():
    pointwise.add(x, x, x)
print(x.sum())
"""


def test_the_note_is_said_once_and_only_while_the_progress_is_shown(capsys):
    before = list(COMPILE_LISTENERS)
    with TerminalProgress():
        COMPILE_LISTENERS[-1]("first")
        COMPILE_LISTENERS[-1]("second")
    assert before == COMPILE_LISTENERS
    assert capsys.readouterr().err.count("compiling kernels") == 1


def test_a_first_process_says_that_it_compiles_and_a_second_has_nothing_to_say(tmp_path):
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "12.0\n"
        told.append("compiling kernels" in done.stderr)
    assert told == [True, False]
