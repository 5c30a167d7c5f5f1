"""The project as a whole: what imports what, what is declared, what the wheel holds."""

import ast
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cosim", "hwmodels", "kernels")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def run(*command, cwd=ROOT):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def imports(path):
    """Return the names of all modules that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_distribution_that_the_code_imports_is_declared():
    lists = [PROJECT["dependencies"], PROJECT["optional-dependencies"]["asr"]]
    declared = {canonical(re.match(r"[\w.-]+", line)[0]) for lines in lists for line in lines}
    owners = metadata.packages_distributions()
    undeclared = []
    for path in SOURCES:
        for top in {name.partition(".")[0] for name in imports(path)}:
            if top in PACKAGES or top in sys.stdlib_module_names:
                continue
            if not {canonical(owner) for owner in owners.get(top, [])} & declared:
                undeclared.append(f"{path.relative_to(ROOT)}: {top}")
    assert undeclared == []


def test_import_order_is_the_one_of_the_contracts():
    run(Path(sys.executable).with_name("lint-imports"), "--no-cache")


def test_kernels_and_hwmodels_import_without_torch():
    assert "modules import without torch" in run(
        sys.executable, ROOT / "tests/import_without_torch.py"
    )


def test_importing_cosim_loads_nothing_else():
    code = "import sys; old = set(sys.modules); import cosim; print(set(sys.modules) - old)"
    assert run(sys.executable, "-c", code) == "{'cosim'}\n"


def test_kernels_carries_the_mark_that_the_guard_looks_for():
    text = (ROOT / "kernels/__init__.py").read_text()
    assert re.search(r"^__cosim_kernels__ = 1$", text, re.MULTILINE)


def at_once(module):
    """Return the modules that a module of cosim imports when it is imported, in their order."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    body = ast.parse(path.read_text()).body if path.is_file() else []
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def meets_first(module, wanted):
    """Return which of the wanted packages a module of cosim comes upon first, or None."""
    for name in at_once(module):
        if name in wanted or name.split(".")[0] in wanted:
            return name
        if name.startswith("cosim.") and (met := meets_first(name, wanted)):
            return met
    return None


def test_every_module_comes_upon_the_guard_before_it_comes_upon_kernels():
    met = {}
    for path in sorted((ROOT / "cosim").rglob("[!_]*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module != "cosim.guard":
            met[module] = meets_first(module, {"cosim.guard", "kernels"})
    assert [module for module, name in met.items() if name not in {None, "cosim.guard"}] == []


def test_no_file_outgrows_its_subject():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in SOURCES
        if (lines := len(path.read_text().splitlines())) > 600
    }
    assert long == {}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    flags = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_code_and_every_config_and_no_test(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = [path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.*")]
    assert {f"cosim/_configs/{path.as_posix()}" for path in configs} <= names
    tracked = run("git", "ls-files", "--", *PACKAGES).splitlines()
    assert set(tracked) <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {*PACKAGES, f"cosim_speech-{PROJECT['version']}.dist-info"}


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment_without_torch(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    pip = (python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    run(*pip, "--prefer-binary", wheel)
    program = (ROOT / "tests/import_without_torch.py").read_text()
    assert "modules import" in run(python, "-I", "-c", program, cwd=tmp_path)
    shown = run(python, "-I", "-c", "import kernels; print(kernels.__file__)", cwd=tmp_path)
    assert Path(shown.strip()).is_relative_to(tmp_path / "env")
    code = "from cosim.config import configs_root; print(configs_root())"
    root = Path(run(python, "-I", "-c", code, cwd=tmp_path).strip())
    assert root.is_relative_to(tmp_path / "env")
    shipped = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.relative_to(root) for path in root.rglob("*.yaml")} == shipped
    assert run(tmp_path / "env/bin/cosim", "--help", cwd=tmp_path).startswith("Usage: cosim")
