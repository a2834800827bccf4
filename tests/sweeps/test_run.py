"""Start of the program: faults that are refused in one line before a sweep, and the dry run."""

import itertools
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mtl.training.batch_time import BatchTime
from sweeps import run
from sweeps.cli.run_program import run_program
from sweeps.planning import cost_table
from sweeps.run import main
from sweeps.search import dry_run
from sweeps.search.batch_timer import NoSlot
from tests.support.paths import ROOT
from tests.support.small_data import FRAMES, NAMES, make_dataset, make_listing, write_space


@pytest.fixture(autouse=True)
def _without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in its own folder, and fail it if it starts or joins a cluster."""

    def connect(address: str) -> None:
        pytest.fail(f"the program connects to a cluster: {address}")

    monkeypatch.chdir(tmp_path)
    for module in (run, dry_run):
        monkeypatch.setattr(module, "connect", connect)
        # The same resources on every machine that runs the tests.
        monkeypatch.setattr(module, "this_machine", lambda: (2, 0))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the program, which must exit with code 2 and start nothing; return its line on stderr."""
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: main(arguments))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not Path("runs").exists()
    return line


SPACE_FAULTS = {
    "unknown key": ({"serach": {}}, "serach is no known key: did you mean"),
    "key of a section": ({"search": {"trails": 3}}, "search.trails is no known key.*trials"),
    "more folds than subjects": ({"refit": {"folds": 9}}, "refit.folds = 9 needs .* 8: set"),
    "seeds without compare": ({"compare": {"seeds": 2}}, "compare.*seeds needs compare.by"),
    "a source that is a target": (
        {
            "space": {
                "framework": {
                    "choice": {
                        "feedback": {
                            "framework.sources": {"values": [["valence"], ["arousal"]]},
                            "framework.targets": {"values": [["arousal"]]},
                        }
                    }
                }
            }
        },
        "framework.targets: arousal is a source too",
    ),
    "a source that is not trained": (
        {"fixed": {"framework": "feedback", "tasks": ["valence", "arousal"]}},
        "framework.sources: action_units is not trained: trained are valence, arousal",
    ),
    "min above max": ({"space": {"optim.lr": {"min": 0.1, "max": 0.01}}}, "optim.lr.*0.1.*0.01"),
    "empty list": ({"space": {"encoder": {"values": []}}}, "space.encoder.* must not be empty"),
    "unknown encoder": ({"space": {"encoder": {"values": ["gruu"]}}}, "gruu.*did you mean.*gru"),
    "unknown path": ({"fixed": {"optim.rl": 1}}, "optim.rl is no known key.*optim.lr"),
    "varying tasks": (
        {"space": {"tasks": {"values": [["valence"], ["arousal"]]}}},
        "space.tasks.*compare.by",
    ),
    "unknown feature set": ({"fixed": {"features": ["apearance"]}}, "apearance.*appearance"),
    "too many trials at once": (
        {"resources": {"concurrent_trials": 64}},
        "concurrent_trials = 64",
    ),
    "more GPUs than there are": ({"resources": {"gpus_per_worker": 1}}, "0 GPUs"),
    "no such dataset": ({"data": "nowhere"}, "nowhere"),
    "no data": ({"data": None}, "data is missing.*data=DIR"),
}


@pytest.mark.parametrize(("changes", "message"), SPACE_FAULTS.values(), ids=SPACE_FAULTS)
def test_a_wrong_search_file_is_refused_in_one_sentence(tmp_path, capsys, changes, message):
    make_dataset(tmp_path / "data")
    file = write_space(tmp_path, "data", **changes)
    line = refused(["--space", str(file)], capsys)
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--space", "absent.yaml"],
        ["--space", "space.yaml", "search.trials"],
        ["--space", "space.yaml", "search.trials=many"],
        ["--space", "space.yaml", "search.trials=0"],
        ["--space", "space.yaml", "encoder.layers=0"],
        ["--space", "space.yaml", "optim.lr=${oc.env:HOME}"],
        ["--space", "space.yaml", "name=../elsewhere"],
    ],
)
def test_a_wrong_command_line_is_refused_in_one_sentence(tmp_path, capsys, arguments):
    make_dataset(tmp_path / "data")
    write_space(tmp_path, "data")
    refused(arguments, capsys)


def cut_a_part_file(data: Path) -> None:
    file = next((data / "features" / "appearance").iterdir())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_the_labels(data: Path) -> None:
    (data / "labels.parquet").unlink()


def cut_the_description(data: Path) -> None:
    (data / "dataset.json").write_text((data / "dataset.json").read_text()[:200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_a_part_file, "part-00000.parquet has .* bytes.*cut short"),
        (remove_the_labels, "labels.parquet is missing"),
        (cut_the_description, "cannot read data/dataset.json"),
    ],
)
def test_a_damaged_dataset_is_refused_in_one_sentence(
    tmp_path, capsys, damage: Callable[[Path], None], message: str
):
    make_dataset(tmp_path / "data")
    damage(tmp_path / "data")
    write_space(tmp_path, "data")
    line = refused(["--space", "space.yaml"], capsys)
    assert re.search(message, line), line


def test_feature_sets_without_a_common_frame_are_refused(tmp_path, capsys):
    frames = {
        "appearance": dict.fromkeys(NAMES, FRAMES[:10]),
        "geometry": dict.fromkeys(NAMES, FRAMES[10:]),
    }
    make_dataset(tmp_path / "data", frames=frames)
    write_space(tmp_path, "data", fixed={"features": ["appearance", "geometry"]})
    line = refused(["--space", "space.yaml"], capsys)
    assert "no listed frame in common" in line


def test_too_few_validation_subjects_are_refused(tmp_path, capsys):
    make_dataset(tmp_path / "data", make_listing(subjects=("a",) * 4 + ("b",) * 4 + ("c", "d")))
    write_space(tmp_path, "data")
    assert "search.confirm" in refused(["--space", "space.yaml"], capsys)


def test_a_folder_without_a_sweep_is_refused_and_kept(tmp_path, capsys):
    make_dataset(tmp_path / "data")
    write_space(tmp_path, "data")
    (tmp_path / "runs" / "small").mkdir(parents=True)
    (tmp_path / "runs" / "small" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: main(["--space", "space.yaml"]))
    assert ended.value.code == 2
    assert "is not empty and holds no sweep" in capsys.readouterr().err
    assert [f.name for f in (tmp_path / "runs" / "small").iterdir()] == ["notes.txt"]


def test_a_dry_run_prints_the_plan_and_begins_nothing(tmp_path, capsys):
    make_dataset(tmp_path / "data")
    write_space(tmp_path, "data", resources={"concurrent_trials": 2})
    assert main(["--space", "space.yaml", "--dry-run", "search.trials=7"]) == 0
    printed = capsys.readouterr().out
    assert "sweep small: 7 trials of up to 3 epochs in 1 study, 2 at once" in printed
    assert "50 sampled configs built" in printed
    assert not Path("runs").exists()


def test_a_dry_run_times_batches_in_this_process(tmp_path, capsys):
    """One config of each encoder and framework fits on the machine, one has a huge model."""
    make_dataset(tmp_path / "data")
    space = {
        "encoder": {"values": ["gru", "transformer"]},
        "framework": {"values": ["share_encoder", "single_task"]},
    }
    write_space(tmp_path, "data", space=space, resources={"concurrent_trials": 2})
    assert main(["--space", "space.yaml", "--dry-run", "search.trials=7000"]) == 0
    printed = capsys.readouterr().out
    assert "timed     here, on this machine's CPU with 1 thread\n" in printed
    rows = re.findall(
        r"^ +(gru|transformer) 8x\d (\w+), window \d+ +[\d,]+ +\d+ ms +\d", printed, re.M
    )
    assert set(rows) == set(
        itertools.product(space["encoder"]["values"], space["framework"]["values"])
    )
    assert re.search(
        r"time      about [\d.]+ \w+ with pruning, [\d.]+ \w+ without on 2 sl", printed
    )
    assert re.search(
        r"memory    (less than )?[\d.]+ GB at most for the training of a worker", printed
    )
    assert "of features once on each node" in printed
    assert main(["--space", "space.yaml", "--dry-run", "encoder.hidden=50000"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"gru 50000x.*not timed: MemoryError: its training needs more than \d+ GB", printed
    )
    assert "time      unknown, because no configuration could be timed" in printed
    assert "lower resources.concurrent_trials" in printed


def test_a_clusters_memory_is_not_compared_with_this_machines(tmp_path, capsys, monkeypatch):
    """Batches are timed on a slot of a cluster, or here if it has no free one."""
    make_dataset(tmp_path / "data")
    write_space(tmp_path, "data", resources={"concurrent_trials": 2})
    cluster = SimpleNamespace(nodes=[(2, 0)], autoscaler=False)
    monkeypatch.setattr(dry_run, "connect", lambda address: nullcontext(cluster))
    monkeypatch.setattr(cost_table, "machine_bytes", lambda: 10**6)

    def no_slot(*job: object) -> BatchTime:
        raise NoSlot("no slot of the cluster answers within 60 s")

    monkeypatch.setattr(dry_run, "time_here", lambda *job: BatchTime(0.5, 0.1, 10**9))
    for timer in (lambda *job: BatchTime(0.5, 0.1, 10**9), no_slot):
        monkeypatch.setattr(dry_run, "slot_timer", lambda resources, timer=timer: timer)
        assert main(["--space", "space.yaml", "--dry-run", "--address", "10.0.0.1:6379"]) == 0
        printed = capsys.readouterr().out
        assert "memory    1 GB at most" in printed
        assert "this machine has" not in printed
    assert main(["--space", "space.yaml", "--dry-run"]) == 0
    assert "2 workers need 2.8 GB, this machine has" in capsys.readouterr().out


def test_every_shipped_space_plans_on_data_with_its_feature_sets(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dry_run, "time_here", lambda *job: BatchTime(0.5, 0.1, 10**9))
    sets = {
        "default": ("appearance", "geometry", "motion"),
        "film": ("visual_audio", "phash"),
        "faces": ("mae", "iresnet", "densenet"),
    }
    for name, feature_sets in sets.items():
        frames = {feature_set: dict.fromkeys(NAMES, FRAMES) for feature_set in feature_sets}
        make_dataset(tmp_path / name, frames=frames)
    spaces = {
        ROOT / "search.yaml": "default",
        ROOT / "sweeps/configs/spaces/studyforrest.yaml": "film",
        ROOT / "sweeps/configs/spaces/studyforrest_cues.yaml": "film",
        ROOT / "sweeps/configs/spaces/abaw.yaml": "faces",
        ROOT / "sweeps/configs/spaces/abaw4_winner.yaml": "faces",
    }
    for space, data in spaces.items():
        assert main(["--space", str(space), "--dry-run", f"data={tmp_path / data}"]) == 0
        name = yaml.safe_load(space.read_text())["name"]
        assert f"sweep {name}: " in capsys.readouterr().out
