"""Plans of small sweeps, and configs with given times of their batches."""

from pathlib import Path
from typing import Any

from mtl.training.batch_time import BatchTime
from sweeps.planning.compose import compose
from sweeps.planning.plan import Plan, SizedConfig, make_plan
from sweeps.planning.time_estimate import TimedConfig, Work
from tests.support.small_data import make_dataset, search_file

WIDE = {
    "encoder": {"values": ["gru", "lstm", "transformer"]},
    "framework": {"values": ["share_encoder", "single_task", "feedback"]},
    "encoder.hidden": {"values": [8, 16, 64]},
    "sequence.window_frames": {"values": [16, 32]},
}


def plan_of(folder: Path, *overrides: str, **changes: Any) -> Plan:
    """Return the plan of a sweep on a new dataset in a folder; 8 epochs unless they are changed."""
    folder.mkdir(exist_ok=True)
    file = search_file(folder, *overrides, **{"fixed": {"training.epochs": 8}, **changes})
    return make_plan(file, make_dataset(folder / "data"))


def timed(parameters: int, seconds: float, *overrides: str) -> TimedConfig:
    """Return a gru config with these seconds of a training batch, and half of a prediction."""
    config = compose(["encoder=gru", "sequence.window_frames=10", *overrides])
    batch = BatchTime(seconds, seconds / 2, 0)
    return TimedConfig(SizedConfig(config, parameters), Work(4, 16, 5, 1, 3), batch)
