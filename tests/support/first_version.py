"""Files that the first version wrote, copied so that a test may go on with them."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

FIRST_VERSION = ROOT / "tests" / "data" / "first_version"


def copied(folder: Path) -> Path:
    """Copy the files into a folder, the sweep as ``runs/feedback``; return the folder."""
    for name in ("dataset", "export", "crops", "features"):
        shutil.copytree(FIRST_VERSION / name, folder / name)
    shutil.copytree(FIRST_VERSION / "run", folder / "runs" / "feedback")
    shutil.copy(FIRST_VERSION / "space.yaml", folder / "space.yaml")
    extraction = folder / "features" / "extraction.json"
    about = json.loads(extraction.read_text())
    extraction.write_text(json.dumps({**about, "images": str((folder / "crops").resolve())}))
    return folder


def expected() -> dict[str, Any]:
    """Return the trials, scores and submission of the sweep when nothing had stopped it."""
    found: dict[str, Any] = json.loads((FIRST_VERSION / "expected.json").read_text())
    return found
