import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TESTS = """
import pytest

def test_runs(): pass

def test_skips_itself(): pytest.skip("no data in ../shared")

@pytest.mark.skipif(True, reason="no parser")
def test_is_skipped(): raise AssertionError

@pytest.mark.xfail
def test_is_expected_to_fail(): raise AssertionError

@pytest.mark.gpu
def test_needs_a_gpu(): pass
"""
CONFTEST = (
    "from tests.support.requirements import *\npytest_collection_modifyitems = deselect_gpu_tests"
)


def run(folder: Path, **environment: str) -> tuple[int, str]:
    """Run pytest on ``TESTS`` with the hooks; return its exit status and output."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_some.py").write_text(TESTS)
    (folder / "test_none.py").write_text(
        "import pytest\npytest.skip('no module', allow_module_level=True)"
    )
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers = gpu\npythonpath = {ROOT}\n")
    inherited = {key: value for key, value in os.environ.items() if key != "REQUIRE_ALL"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rfEs", "--continue-on-collection-errors"],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all GPUs from the tests that are run."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("gpus")
def test_a_skip_is_a_failure_where_everything_is_required(tmp_path: Path) -> None:
    status, printed = run(tmp_path, REQUIRE_ALL="1")
    assert status != 0
    for reason in ("no data in ../shared", "no parser", "no module"):
        assert f"REQUIRE_ALL=1, but this is skipped: Skipped: {reason}" in printed
    ended = printed.splitlines()[-1]
    assert "1 failed, 1 passed, 1 deselected, 1 xfailed, 2 errors" in ended


@pytest.mark.usefixtures("gpus")
def test_elsewhere_a_skip_gives_its_reason(tmp_path: Path) -> None:
    status, printed = run(tmp_path)
    assert status == 0
    assert "1 passed, 3 skipped, 1 deselected, 1 xfailed" in printed.splitlines()[-1]
    for reason in ("no data in ../shared", "no parser", "no module"):
        assert reason in printed
