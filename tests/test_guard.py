"""cosim.guard: a foreign `kernels` package is told apart without running it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXPLODES = "raise SystemExit('the foreign package ran')\n"


def imported(code, *paths):
    """Run code in a fresh interpreter outside the checkout, `paths` first on its path."""
    lines = [f"import sys; sys.path[:0] = {[str(path) for path in (*paths, ROOT)]!r}", code]
    return subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(lines)],
        cwd=ROOT.anchor,
        capture_output=True,
        text=True,
        check=False,
    )


def foreign(folder, text=EXPLODES):
    package = folder / "kernels"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text)
    return package / "__init__.py"


SAY = (
    "from cosim.errors import CosimError\n"
    "try:\n    import cosim.guard\n"
    "except CosimError as error:\n    print(error)\n"
    "else:\n    print('ours')"
)


def test_our_own_package_passes_and_is_not_imported_for_it():
    done = imported(f"{SAY}\nprint('kernels' in sys.modules)")
    assert (done.stdout, done.stderr) == ("ours\nFalse\n", "")


def test_a_package_first_on_the_path_is_named_and_not_run(tmp_path):
    path = foreign(tmp_path)
    done = imported(SAY, tmp_path)
    assert done.stderr == ""
    assert done.stdout == (
        f'{path}: found another package "kernels", which no distribution installed, expected the '
        "package that comes with cosim-speech; rename it, or start Python elsewhere, or use a "
        'fresh environment, such as the one "make run" makes in .venv\n'
    )


def test_the_distribution_that_owns_the_package_is_named(tmp_path):
    path = foreign(tmp_path)
    info = tmp_path / "gpu_kernels-0.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpu-kernels\nVersion: 0.9\n")
    (info / "RECORD").write_text("kernels/__init__.py,,\ngpu_kernels-0.9.dist-info/METADATA,,\n")
    (info / "top_level.txt").write_text("kernels\n")
    done = imported(SAY, tmp_path)
    assert done.stderr == ""
    assert done.stdout.startswith(
        f'{path}: found the package "kernels" of another distribution, gpu-kernels, expected'
    )
    assert '"pip uninstall gpu-kernels" and install cosim-speech again' in done.stdout


def test_a_package_that_only_mentions_the_mark_is_foreign(tmp_path):
    foreign(tmp_path, '"""Not __cosim_kernels__ = 1."""\n')
    assert "found another package" in imported(SAY, tmp_path).stdout


def test_one_already_imported_is_found_out(tmp_path):
    path = foreign(tmp_path, "")
    done = imported(f"import kernels\n{SAY}", tmp_path)
    assert done.stdout.startswith(f"{path}: found another package")


def test_a_single_file_is_found_out(tmp_path):
    (tmp_path / "kernels.py").write_text(EXPLODES)
    done = imported(SAY, tmp_path)
    assert done.stdout.startswith(f"{tmp_path / 'kernels.py'}: found another package")


@pytest.mark.parametrize("module", ["cosim.execute", "cosim.lower", "cosim.schedule"])
def test_modules_that_need_kernels_stop_before_they_import_a_foreign_one(tmp_path, module):
    foreign(tmp_path)
    done = imported(f"import {module}", tmp_path)
    assert done.returncode == 1
    assert "cosim.errors.CosimError: " in done.stderr
    assert "the foreign package ran" not in done.stderr


def test_the_command_line_tells_it_without_a_traceback(tmp_path):
    path = foreign(tmp_path)
    done = imported("from cosim.cli import main\nmain(['run', 'missing.yaml'])", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}: found another package")
    assert "Traceback" not in done.stderr
