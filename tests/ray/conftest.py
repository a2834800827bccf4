"""Fixture of a finished sweep for the tests of sweeps and of predictions."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from mtl.dataset import Dataset
from sweeps.prediction.export import export
from sweeps.run import main
from tests.support.small_sweeps import ENCODERS, space_file

SPACE = {
    "encoder": ENCODERS,
    "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True},
    "sequence.frames": {"values": ["listed", "all"]},
    "sequence.frame_stride": {"values": [1, 2]},
}
"""Search space whose first four trials have all combinations of frames and stride.

This holds for the seed of ``space_file``.
"""


@pytest.fixture(scope="session")
def swept(planted: Dataset, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the finished sweep ``runs/whole``, which tests only read.

    The file ``printed.txt`` holds the output of the sweep, the folder ``exported`` its fused model.
    """
    folder = tmp_path_factory.mktemp("swept")
    space_file(folder, planted.address, name="whole", space=SPACE)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        assert main(["--space", "space.yaml", "--address", ray_address]) == 0
        (folder / "printed.txt").write_text(printed.getvalue())
        export(Path("runs/whole"), planted, Path("exported"))
    return folder
