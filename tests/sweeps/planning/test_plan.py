"""Plan of a sweep: faults that would fail trials are refused, the rest is described."""

import numpy as np
import pytest
import torch

from mtl.build_model import build_model
from mtl.errors import InputError
from mtl.tasks import TASKS
from sweeps.planning.compose import compose
from sweeps.planning.describe import describe
from sweeps.planning.plan import divide, make_plan
from tests.support.small_data import (
    FRAMES,
    NAMES,
    SPLITS,
    WIDTH,
    make_dataset,
    make_listing,
    search_file,
)

VALENCE_AROUSAL = (0, 1)
ALL = dict.fromkeys(NAMES, FRAMES)


def test_the_description_contains_the_plan(tmp_path):
    file = search_file(
        tmp_path,
        pruner={"kind": "asha", "min_epochs": 1, "reduction_factor": 2},
        compare={"by": ["encoder"]},
        space={
            "encoder": {"values": ["gru", "lstm"]},
            "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True},
        },
    )
    plan = make_plan(file, make_dataset(tmp_path / "data"))
    text = describe(plan, 2)
    for part in (
        "sweep small: 4 trials of up to 3 epochs in 2 studies, 2 at once, tpe sampler, seed 3",
        "200 listed frames; videos: 4 train, 2 select, 2 confirm, 2 test",
        "appearance (3)",
        "valence, arousal, expression, action_units",
        "at epochs 1, 2 the best 1/2 go on",
        "(50 sampled configs built)",
        "optim.lr",
    ):
        assert part in text
    assert "at once" not in describe(plan, None)
    assert "workers" not in text
    assert "lost" not in text


def test_the_description_contains_the_workers_of_a_trial(tmp_path):
    file = search_file(tmp_path, "resources.workers_per_trial=2")
    plan = make_plan(file, make_dataset(tmp_path / "data"))
    assert "in 1 study, 3 at once, 2 workers each, tpe sampler" in describe(plan, 3)
    assert "in 1 study, 2 workers each, tpe sampler" in describe(plan, None)


def test_parameters_are_counted_without_allocating_the_models(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    file = search_file(tmp_path, space={"encoder.hidden": {"values": [8, 16]}}, fixed={})
    counts = [
        sum(
            p.numel()
            for p in build_model(compose([f"encoder.hidden={h}"]), WIDTH, tuple(TASKS)).parameters()
        )
        for h in (8, 16)
    ]
    assert make_plan(file, dataset).parameters == tuple(counts)
    # More than three billion parameters.
    huge = search_file(tmp_path, "encoder.hidden=20000")
    assert make_plan(huge, dataset).parameters[0] > 3 * 10**9
    assert torch.get_default_device() == torch.device("cpu")


def test_rungs_follow_the_trials_own_epochs(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    plan = make_plan(search_file(tmp_path, "pruner.min_epochs=2"), dataset)
    assert plan.rungs(3) == {2}
    assert plan.rungs(18) == {2, 6, 18}
    assert make_plan(search_file(tmp_path, "pruner.kind=none"), dataset).rungs(18) == frozenset()


def test_the_description_contains_untrained_tasks(tmp_path):
    plan = make_plan(search_file(tmp_path), make_dataset(tmp_path / "d", make_listing((0, 1))))
    assert plan.tasks == ("valence", "arousal")
    assert "(no training label of expression, action_units)" in describe(plan, None)


@pytest.mark.parametrize(
    ("overrides", "known", "message"),
    [
        (["features=[apearance]"], range(15), "no set 'apearance'.*appearance"),
        (["tasks=[expression]"], VALENCE_AROUSAL, "no training frame has a label of expression"),
        (["search.metric=expression"], VALENCE_AROUSAL, "search.metric = 'expression'"),
        (["encoder=transformer", "encoder.heads=3"], range(15), "heads"),
    ],
)
def test_a_fault_of_every_trial_is_refused(tmp_path, overrides, known, message):
    dataset = make_dataset(tmp_path / "d", make_listing(known))
    with pytest.raises(InputError, match=message) as refused:
        make_plan(search_file(tmp_path, *overrides), dataset)
    assert "\n" not in str(refused.value)


def test_select_without_labels_is_refused(tmp_path):
    listing = make_listing()
    parts = divide(listing, 0.5, 3)
    unlabelled = [i for i, name in enumerate(NAMES) if parts[name] == "select"]
    for video in unlabelled:
        listing.mask[listing.video == video] = False
    with pytest.raises(InputError, match=r"search.confirm = 0.5 leaves no frame with a label"):
        make_plan(search_file(tmp_path), make_dataset(tmp_path / "d", listing))


def test_feature_sets_without_a_common_frame_are_refused(tmp_path):
    other = dict.fromkeys(NAMES, FRAMES[10:])
    first = dict.fromkeys(NAMES, FRAMES[:10])
    dataset = make_dataset(tmp_path / "d", frames={"appearance": first, "geometry": other})
    file = search_file(tmp_path, "features=[appearance,geometry]")
    with pytest.raises(InputError, match="appearance, geometry have no listed frame in common"):
        make_plan(file, dataset)


def test_a_part_without_features_is_refused(tmp_path):
    trained = {n: FRAMES for n, split in zip(NAMES, SPLITS, strict=True) if split == "train"}
    dataset = make_dataset(tmp_path / "d", frames={"appearance": trained})
    with pytest.raises(InputError, match="no select video has a listed frame"):
        make_plan(search_file(tmp_path), dataset)


def test_frames_without_features_are_counted_by_their_treatment(tmp_path):
    """Features exist for 15 of 20 frames of v0 (train), 18 of v9 and none of v8 (both test)."""
    frames = {**ALL, "v0": FRAMES[:15], "v9": FRAMES[2:]}
    del frames["v8"]
    plan = make_plan(
        search_file(tmp_path), make_dataset(tmp_path / "d", frames={"appearance": frames})
    )
    (sentence,) = plan.missing_features
    assert sentence.startswith("appearance: ")
    assert "5 are not trained on, 2 are predicted from" in sentence
    assert "20 from the training labels' mean" in sentence
    assert sentence in describe(plan, None)


def test_validation_videos_are_divided_by_subject_and_the_others_keep_their_split():
    subjects = ("a", "b", "c", "d", "e", "e", "f", "f", "g", "h")
    parts = divide(make_listing(subjects=subjects), 0.5, 3)
    assert [parts[name] for name in NAMES[:4] + NAMES[8:]] == ["train"] * 4 + ["test"] * 2
    assert parts["v4"] == parts["v5"] != parts["v6"] == parts["v7"]
    assert set(divide(make_listing(), 0.0, 3).values()) == {"train", "select", "test"}


def test_validation_videos_of_one_subject_cannot_be_divided(tmp_path):
    dataset = make_dataset(tmp_path / "d", make_listing(subjects=("a",) * 4 + ("e",) * 6))
    with pytest.raises(InputError, match=r"search\.confirm=0"):
        make_plan(search_file(tmp_path), dataset)
    plan = make_plan(search_file(tmp_path, "search.confirm=0"), dataset)
    assert "selected on the scored videos" in describe(plan, None)


def test_a_warm_up_that_is_longer_than_the_training_is_noted(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    fixed = {"training.epochs": 5, "optim.batch_videos": 4, "sequence.window_frames": 10}
    for warm_up, expected in (
        ({"optim.warmup_steps": 100}, "warm-up has 100 steps, their training 10"),
        ({"optim.warmup_epochs": 7}, "warm-up has 14 steps, their training 10"),
        ({"optim.warmup_steps": 9}, None),
    ):
        plan = make_plan(search_file(tmp_path, fixed={**fixed, **warm_up}), dataset)
        text = describe(plan, None)
        assert (expected in text) if expected else ("warm-up" not in text)


def test_cuda_without_gpus_is_refused(tmp_path):
    file = search_file(tmp_path, fixed={"training.device": "cuda"})
    with pytest.raises(InputError, match=r"set resources\.gpus_per_worker = 1"):
        make_plan(file, make_dataset(tmp_path / "data"))
    given = search_file(
        tmp_path, fixed={"training.device": "cuda"}, resources={"gpus_per_worker": 1}
    )
    assert make_plan(given, make_dataset(tmp_path / "other")).sampled


def test_the_lengths_of_videos_are_known_for_every_combination(tmp_path):
    plan = make_plan(search_file(tmp_path), make_dataset(tmp_path / "data"))
    config = compose(["features=[unseen]"])
    assert plan.video_lengths(config) in plan.lengths.values()


def test_a_fold_without_features_or_labels_is_refused(tmp_path):
    """Few of the eight labelled videos have the feature set ``rare``, or labels of expression."""
    frames = {
        "appearance": dict.fromkeys(NAMES, FRAMES),
        "rare": dict.fromkeys(("v0", "v1", "v4", "v5", "v6", "v7"), FRAMES),
    }
    data = make_dataset(tmp_path / "data", frames=frames)
    fixed = {"features": ["rare"], "encoder.hidden": 8}
    plan = make_plan(search_file(tmp_path, fixed=fixed, refit={"folds": 4}), data)
    assert len(plan.folds) == 4
    frames["rare"] = dict.fromkeys(("v0", "v4", "v5", "v6", "v7"), FRAMES)
    few = make_dataset(tmp_path / "few", frames=frames)
    make_plan(search_file(tmp_path, fixed=fixed), few)
    with pytest.raises(InputError, match=r"refit.folds = 8 holds fold \d out, no select video"):
        make_plan(search_file(tmp_path, fixed=fixed, refit={"folds": 8}), few)
    listing = make_listing()
    only = [NAMES.index(name) for name in ("v0", "v4")]
    listing.mask[~np.isin(listing.video, only), 2] = False
    scarce = make_dataset(tmp_path / "scarce", listing)
    message = (
        r"refit.folds = 4 leaves fold \d without a label of expression to (train on|select by)"
    )
    with pytest.raises(InputError, match=message):
        make_plan(search_file(tmp_path, refit={"folds": 4}), scarce)
