"""Order, augmentation and noise of the images of an epoch."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mtl.errors import InputError
from mtl.features.face_crops import Images
from mtl.pretraining.augmentation import epoch_batches, patch_noise, read_augmented, read_resized
from mtl.pretraining.config import Augmentation

RANDOM_CROP = Augmentation(crop_scale=(0.2, 1.0), flip=0.5)
WHOLE = Augmentation(crop_scale=(1.0, 1.0), flip=0.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Images:
    """Eight images of 20 x 20 pixels with a bright left half; the fourth is a text file."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for i in range(8):
        pixels = random.integers(0, 60, (20, 20, 3), dtype=np.uint8)
        pixels[:, :10] += 150
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "3.png").write_text("no picture")
    return Images(str(folder), pa.array([f"{i}.png" for i in range(8)]))


def test_an_epoch_has_each_image_once_without_an_incomplete_batch():
    batches = epoch_batches(103, 10, seed=1, epoch=2)
    assert batches.shape == (10, 10)
    assert len(set(batches.ravel().tolist())) == 100
    assert np.array_equal(batches, epoch_batches(103, 10, seed=1, epoch=2))
    assert not np.array_equal(batches, epoch_batches(103, 10, seed=1, epoch=3))
    assert not np.array_equal(batches, epoch_batches(103, 10, seed=2, epoch=2))


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(InputError, match=r"batch_images = 8 is refused: there are 7 images"):
        epoch_batches(7, 8, seed=0, epoch=1)


def test_a_crop_depends_only_on_seed_epoch_and_image(images):
    together = read_augmented(images, [0, 5, 2], 16, RANDOM_CROP, seed=1, epoch=2)
    alone = read_augmented(images, [2], 16, RANDOM_CROP, seed=1, epoch=2)
    assert np.array_equal(together.pixels[2], alone.pixels[0])
    for seed, epoch in ((1, 3), (2, 2)):
        other = read_augmented(images, [2], 16, RANDOM_CROP, seed=seed, epoch=epoch)
        assert not np.array_equal(other.pixels[0], alone.pixels[0])


def test_the_global_generator_is_not_changed(images):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    read_augmented(images, [0, 1], 16, RANDOM_CROP, seed=1, epoch=2)
    assert torch.equal(torch.rand(3), expected)


def test_crops_and_mirroring_follow_the_settings(images):
    """The bright half of an image is on the right only if the image is mirrored."""
    flips = [
        read_augmented(images, [0], 16, Augmentation(crop_scale=(1, 1), flip=0.3), 0, epoch)
        for epoch in range(300)
    ]
    right = np.mean([r.pixels[0, :, -1].mean() > 100 for r in flips])
    assert 0.2 < right < 0.4
    # Crops of 2 or 3 pixels have one colour.
    small = Augmentation(crop_scale=(0.01, 0.02), flip=0.0)
    means = [
        read_augmented(images, [0], 16, small, 0, epoch).pixels.astype(float).std()
        for epoch in range(40)
    ]
    whole = read_augmented(images, [0], 16, WHOLE, 0, 1).pixels.astype(float).std()
    assert np.median(means) < whole / 2


def test_an_unreadable_image_is_named_and_replaced_by_another(images):
    for read in (
        read_augmented(images, [2, 3, 4], 16, RANDOM_CROP, seed=1, epoch=1),
        read_resized(images, [2, 3, 4], 16, Image.Resampling.BICUBIC),
    ):
        assert read.valid.tolist() == [True, False, True]
        assert np.array_equal(read.pixels[1], read.pixels[0])
        assert not np.array_equal(read.pixels[1], read.pixels[2])
        assert len(read.broken) == 1
        assert read.broken[0].startswith("3.png: not an image")
    alone = read_augmented(images, [3], 16, RANDOM_CROP, seed=1, epoch=1)
    assert not alone.valid.any()
    assert (alone.pixels == 0).all()


def test_read_resized_changes_only_the_size(images):
    same = read_resized(images, [1], 20, Image.Resampling.BICUBIC)
    assert np.array_equal(same.pixels[0], np.asarray(images.read(1)))
    half = read_resized(images, [1], 10, Image.Resampling.BILINEAR)
    expected = images.read(1).resize((10, 10), Image.Resampling.BILINEAR)
    assert np.array_equal(half.pixels[0], np.asarray(expected))


def test_noise_depends_only_on_seed_epoch_and_image():
    noise = patch_noise([4, 9], 30, seed=1, epoch=2)
    assert noise.dtype == np.float32
    assert np.array_equal(patch_noise([9], 30, seed=1, epoch=2)[0], noise[1])
    assert not np.array_equal(patch_noise([9], 30, seed=1, epoch=3)[0], noise[1])
    assert 0 <= noise.min() <= noise.max() < 1
    assert patch_noise([], 30, seed=1, epoch=2).shape == (0, 30)
