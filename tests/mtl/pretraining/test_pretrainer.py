"""Pretraining: objectives, optimisation, checkpoints and kept weights."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mtl.errors import InputError, TrainingError
from mtl.features.backbones import load_backbone
from mtl.features.face_crops import Images
from mtl.optimisation.distributed import Workers
from mtl.pretraining.augmentation import read_augmented
from mtl.pretraining.config import MAEConfig, SupervisedConfig
from mtl.pretraining.objectives import ImageBatch, Reconstruction, Supervision
from mtl.pretraining.pretrainer import Pretrainer
from mtl.strict import validate_as
from mtl.tasks import TASKS
from sweeps.planning.compose import compose_plain

SMALL = ["training.epochs=3", "training.batch_images=8", "optim.warmup_epochs=1", "size=64"]
PRIOR = np.concatenate([[0, 0], np.full(8, 1 / 8), np.full(12, 0.3)]).astype(np.float32)
STEPS = 4


def mae_config(*overrides: str) -> MAEConfig:
    given = ["backbone=mae_vit_mini", *SMALL, "optim.base_lr=0.01", *overrides]
    return validate_as(MAEConfig, compose_plain("pretrain_mae", given))


def supervised_config(*overrides: str) -> SupervisedConfig:
    given = ["backbone=mae_vit_mini", *SMALL, "dropout=0.0", "optim.base_lr=0.1", *overrides]
    return validate_as(SupervisedConfig, compose_plain("pretrain_supervised", given))


def batches(epoch: int, supervised: bool = False) -> list[ImageBatch]:
    """Return the batches of an epoch: images with a bright bar at a random place.

    Labels follow from the place of the bar.
    """
    random = np.random.default_rng([5, epoch])
    made = []
    for _ in range(STEPS):
        place = random.integers(0, 24, 8)
        pixels = random.integers(0, 40, (8, 64, 64, 3), dtype=np.uint8)
        for one, left in zip(pixels, place, strict=True):
            one[:, 2 * left : 2 * left + 16] += 180
        batch = {"pixels": torch.from_numpy(pixels), "valid": torch.ones(8, dtype=torch.bool)}
        if supervised:
            labels = np.zeros((8, 15), np.float32)
            labels[:, 0] = place / 12 - 1
            labels[:, 1] = 1 - place / 12
            labels[:, 2] = place // 3
            labels[:, 3:] = place[:, None] > 12
            batch |= {
                "labels": torch.from_numpy(labels),
                "mask": torch.from_numpy(random.random((8, 15)) < 0.7),
            }
        else:
            batch["noise"] = torch.from_numpy(random.random((8, 16), np.float32))
        made.append(batch)
    return made


def make(config, checkpoint: bytes | None = None) -> Pretrainer:
    if isinstance(config, MAEConfig):
        return Pretrainer(Reconstruction(config), config, checkpoint)
    return Pretrainer(Supervision(config, PRIOR), config, checkpoint)


def train(config, epochs: int, checkpoint: bytes | None = None) -> Pretrainer:
    trainer = make(config, checkpoint)
    supervised = isinstance(config, SupervisedConfig)
    for epoch in range(len(trainer.learning_curve) + 1, epochs + 1):
        trainer.train_epoch(batches(epoch, supervised), STEPS)
    return trainer


BOTH = pytest.mark.parametrize("config", [mae_config(), supervised_config()], ids=["mae", "labels"])


def test_steps_that_overflow_in_float16_are_skipped():
    trainer = train(supervised_config("training.precision=float16"), 3)
    assert trainer.scaler.get_scale() < 2**16  # initial scale
    first, _, last = (sum(result.losses.values()) for result in trainer.learning_curve)
    assert last < 0.95 * first


@BOTH
def test_the_loss_falls(config):
    trainer = train(config, 3)
    first, *_, last = (sum(result.losses.values()) for result in trainer.learning_curve)
    assert last < 0.95 * first
    assert [result.images for result in trainer.learning_curve] == [32, 32, 32]


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("make_config", [mae_config, supervised_config])
def test_a_continued_pretraining_equals_an_uninterrupted_one(make_config, precision):
    config = make_config(f"training.precision={precision}")
    whole = train(config, 3)
    stopped = train(config, 2)
    other = train(config, 3, stopped.checkpoint())
    assert [r.losses for r in other.learning_curve] == [r.losses for r in whole.learning_curve]
    assert other.scaler.state_dict() == whole.scaler.state_dict()
    for name, value in whole.objective.weights().items():
        assert torch.equal(other.objective.weights()[name], value), name


def test_load_backbone_reads_the_weights(tmp_path):
    for number, config in enumerate((mae_config(), supervised_config("backbone=timm:resnet10t"))):
        trainer = train(config, 1)
        file = tmp_path / f"{number}.safetensors"
        save_file(trainer.objective.weights(), file)
        loaded = load_backbone(config.backbone, file, config.size)
        pixels = batches(9)[0]["pixels"]
        trainer.model.eval()
        with torch.no_grad():
            if isinstance(config, MAEConfig):
                images = loaded.colours.normalise(pixels)
                tokens = trainer.objective.backbone.model.tokens(images)
                expected = tokens[:, 1:].mean(dim=1)
            else:
                expected = trainer.objective.backbone(pixels)
            torch.testing.assert_close(loaded(pixels), expected)


def test_the_sums_of_parts_add_up_to_the_sums_of_the_batch():
    for config in (mae_config(), supervised_config()):
        objective = make(config).objective
        objective.model.eval()
        batch = batches(1, isinstance(config, SupervisedConfig))[0]
        parts = [
            objective.model({name: part[half] for name, part in batch.items()})
            for half in (slice(0, 3), slice(3, 8))
        ]
        for whole, one, other in zip(objective.model(batch), *parts, strict=True):
            torch.testing.assert_close(one + other, whole)


@BOTH
def test_an_unreadable_image_does_not_change_the_sums(config):
    objective = make(config).objective
    objective.model.eval()
    batch = dict(batches(1, isinstance(config, SupervisedConfig))[0])
    batch["valid"] = torch.tensor([True] * 7 + [False])
    expected = objective.model({name: part[:7] for name, part in batch.items()})
    batch["pixels"] = batch["pixels"].clone()
    batch["pixels"][7] = 255
    for one, other in zip(objective.model(batch), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_replacement_of_an_unreadable_image_does_not_change_batch_norms(tmp_path):
    """Three images, each present twice, have the same mean and variance as once."""
    for row, pixels in enumerate(batches(1)[0]["pixels"][:3]):
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{row}.png")
        (tmp_path / f"{row + 3}.png").write_text("no picture")
    images = Images(str(tmp_path), pa.array([f"{row}.png" for row in range(6)]))
    config = supervised_config("backbone=timm:resnet10t")
    labels = batches(1, supervised=True)[0]
    sums = []
    for rows in (range(3), range(6)):
        read = read_augmented(images, rows, 64, config.augmentation, seed=0, epoch=1)
        batch = {"pixels": torch.from_numpy(read.pixels), "valid": torch.from_numpy(read.valid)}
        batch |= {name: labels[name][: len(rows)] for name in ("labels", "mask")}
        sums.append(make(config).objective.model.train()(batch))
    for few, all_of_them in zip(*sums, strict=True):
        torch.testing.assert_close(all_of_them, few)


def test_the_learning_rate_follows_warm_up_and_half_cosine_per_step():
    config = mae_config("training.epochs=3", "optim.base_lr=0.032")  # peak 0.001 for batches of 8
    trainer, rates = make(config), []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    for epoch in (1, 2, 3):
        trainer.train_epoch(batches(epoch), STEPS)
    warm = [0.001 * (n + 1) / 4 for n in range(4)]
    falling = [0.0005 * (1 + np.cos(np.pi * n / 8)) for n in range(8)]
    np.testing.assert_allclose(rates, warm + falling, rtol=1e-6)


def test_biases_and_norms_have_no_weight_decay():
    trainer = make(mae_config("optim.weight_decay=0.3"))
    decays = {
        id(p): group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    }
    for name, p in trainer.model.named_parameters():
        if p.requires_grad:
            matrix = name.endswith("weight") and "norm" not in name
            token = name.endswith(("cls_token", "mask_token"))
            assert decays[id(p)] == (0.3 if matrix or token else 0.0), name
        else:
            assert id(p) not in decays


def test_a_loss_that_is_not_finite_is_an_error_with_epoch_and_step():
    broken = batches(1, supervised=True)
    broken[2]["labels"][:, TASKS["arousal"].labels] = torch.nan
    with pytest.raises(TrainingError, match="loss of arousal is not finite at epoch 1, step 3: "):
        make(supervised_config()).train_epoch(broken, STEPS)


@pytest.mark.parametrize("make_config", [mae_config, supervised_config])
def test_half_precision_gives_nearly_the_same_losses(make_config):
    whole, half = (
        train(make_config(f"training.precision={p}"), 2) for p in ("float32", "bfloat16")
    )
    assert half.precision is torch.bfloat16
    assert all(p.dtype is torch.float32 for p in half.model.parameters())
    for name, loss in half.learning_curve[-1].losses.items():
        assert loss == pytest.approx(whole.learning_curve[-1].losses[name], rel=0.1), name


@pytest.mark.parametrize("size", [112, 224])
def test_images_of_112_and_224_pixels(size):
    trainer = make(mae_config(f"size={size}", "backbone=mae_vit_mini"))
    batch = {
        "pixels": torch.randint(0, 255, (2, size, size, 3), dtype=torch.uint8),
        "valid": torch.ones(2, dtype=torch.bool),
        "noise": torch.rand(2, (size // 16) ** 2),
    }
    result = trainer.train_epoch([batch], 1)
    assert np.isfinite(result.losses["reconstruction"])
    assert trainer.objective.autoencoder.visible == (size // 16) ** 2 // 4


def test_a_damaged_checkpoint_is_an_error():
    with pytest.raises(TrainingError, match="the checkpoint is damaged"):
        make(mae_config(), b"nothing of the kind")


def test_kept_weights_are_those_of_the_best_score_or_of_the_last_checkpoint():
    trainer = train(supervised_config(), 3)
    assert trainer.should_keep_weights(checkpoint_due=True)
    assert not trainer.should_keep_weights(checkpoint_due=False)
    kept, history = [], list(trainer.learning_curve)
    trainer.learning_curve.clear()
    for result, score in zip(history, (0.3, 0.2, 0.4), strict=True):
        trainer.learning_curve.append(result)
        trainer.add_scores({"valence": score, "arousal": None, "expression": 0.1})
        kept.append(trainer.should_keep_weights(checkpoint_due=False))
    assert kept == [True, False, True]
    assert trainer.learning_curve[-1].score == pytest.approx(0.5)


def test_outputs_are_values_and_probabilities_of_the_trained_tasks():
    config = supervised_config("tasks=[valence,expression]")
    objective = make(config).objective
    outputs = objective.outputs(batches(1)[0]["pixels"])
    assert outputs[:, TASKS["valence"].outputs].abs().max() <= 1
    expression = outputs[:, TASKS["expression"].outputs]
    torch.testing.assert_close(expression.sum(dim=1), torch.ones(8))
    for task in ("arousal", "action_units"):
        assert outputs[:, TASKS[task].outputs].isnan().all()


@pytest.mark.parametrize("balancing", ["uncertainty", "dynamic_weight_average", "upgrad"])
def test_balancings_of_trials_work_in_pretraining(balancing):
    config = supervised_config(f"balancing={balancing}")
    trainer = train(config, 3)
    assert trainer.learning_curve[-1].losses.keys() == set(TASKS)
    if balancing == "uncertainty":
        learned = trainer.objective.balancing.log_variance
        assert all(abs(value.item()) > 0 for value in learned.values())


def test_initial_weights_of_a_masked_autoencoder_with_and_without_decoder(tmp_path):
    trained = train(mae_config(), 1).objective.weights()
    for name, weights in {
        "whole": trained,
        "encoder": {
            name: value
            for name, value in trained.items()
            if not name.startswith(("decoder_", "mask_token"))
        },
    }.items():
        file = tmp_path / f"{name}.safetensors"
        save_file(weights, file)
        started = Reconstruction(mae_config(f"weights={file}")).weights()
        fresh = Reconstruction(mae_config()).weights()
        for key, value in started.items():
            assert torch.equal(value, weights.get(key, fresh[key])), key


def test_a_backbone_that_is_no_masked_autoencoder_is_refused():
    with pytest.raises(InputError, match="'mae_vit_bas' is no masked autoencoder: did you mean"):
        Reconstruction(mae_config("backbone=mae_vit_bas"))
    with pytest.raises(InputError, match="'iresnet18' is no masked autoencoder"):
        Reconstruction(mae_config("backbone=iresnet18"))
    with pytest.raises(InputError, match="weights = 'hub' is refused: backbone mae_vit_mini has"):
        Reconstruction(mae_config("backbone=mae_vit_mini", "weights=hub"))


def test_invalid_configs_are_refused_with_the_reason():
    for overrides, says in {
        ("augmentation.crop_scale=[0.5,0.2]",): "the least comes first",
        ("augmentation.crop_scale=[0,1]",): "augmentation.crop_scale",
        ("mask_ratio=1.0",): "mask_ratio",
        ("training.epochs=40", "optim.warmup_epochs=40"): (
            "warmup_epochs = 40 is refused: of training.epochs = 40 it .*; lower it, to 2 for"
        ),
        ("training.epochs=1",): "optim.warmup_epochs = 1 is refused: .* to 0.05 for example",
    }.items():
        with pytest.raises(InputError, match=says):
            mae_config(*overrides)
    assert mae_config("training.epochs=1", "optim.warmup_epochs=0.5").training.epochs == 1
    with pytest.raises(InputError, match="tasks: 'valense' is unknown: did you mean 'valence'"):
        supervised_config("tasks=[valense]")
    with pytest.raises(InputError, match="names one twice"):
        supervised_config("tasks=[valence,valence]")


def test_a_checkpoint_holds_the_counters_of_batch_norm():
    trainer = train(supervised_config("backbone=timm:resnet10t"), 2)
    again = make(trainer.config, trainer.checkpoint())
    counters = [v for k, v in again.model.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counters
    assert all(int(counter) == 2 * STEPS for counter in counters)


def test_an_epoch_ends_with_the_batch_norm_statistics_of_rank_0():
    class Second(Workers):
        def broadcast_buffers(self, model: torch.nn.Module) -> None:
            for buffer in model.buffers():
                buffer.fill_(7)

    config = supervised_config("backbone=timm:resnet10t")
    trainer = Pretrainer(Supervision(config, PRIOR), config, workers=Second())
    trainer.train_epoch(batches(1, supervised=True), STEPS)
    weights = trainer.objective.weights()
    assert all((value == 7).all() for name, value in weights.items() if "running" in name)
