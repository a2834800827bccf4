"""Face crops on disk or S3: found, read, and taken as the frames of videos.

Images lie as ``<folder>/<video>/<00001>.jpg``; a video's name may have slashes itself.
"""

import errno
import io
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from jaxtyping import Int, Int32
from PIL import Image, ImageOps, UnidentifiedImageError

from mtl.dataset import storage
from mtl.dataset.annotations import IMAGE_PATTERN, MAX_FRAME, Challenge
from mtl.dataset.listing import pack
from mtl.errors import InputError, brief
from mtl.features.image_folder import SUFFIXES, is_mounted, list_files, printable

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""What is decoded, whatever a file's name says: no other decoder sees a stranger's bytes."""
MAX_PIXELS = 64 * 2**20
HIGH_BIT_DEPTH_MODES = ("I", "F")
"""Modes that PIL would cut to 8 bits, not scale."""
JPEG_END = b"\xff\xd9"
TOO_MANY_OPEN_FILES = (errno.EMFILE, errno.ENFILE)
"""What keeps a process from opening any file."""

_resolve = lru_cache(maxsize=8)(storage.resolve)
"""Once a process: to find the region of an S3 bucket takes a request."""


class BrokenImage(Exception):
    """An image that cannot be had.

    Attributes:
        file: Its path below the folder of its images.
        reason: ``missing``, ``unreadable ...``, ``empty``, ``truncated``, ``not an image ...``: a
            few words.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Images:
    """Images below one folder. Millions of them are a few dozen MB, and pickled without a copy.

    Attributes:
        address: The folder, local or ``s3://``.
        files: Their paths below it, an Arrow array of N strings.
        left_out: What else was found there, as a program says it; empty for nothing.
    """

    address: str
    files: pa.Array
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def file(self, i: int) -> str:
        """The path of an image below the folder."""
        return str(self.files[i])

    def take(self, rows: Int[np.ndarray, " n"] | list[int]) -> "Images":
        """Some of them, in the order of ``rows``."""
        return Images(self.address, self.files.take(pa.array(rows)))

    def read(self, i: int) -> Image.Image:
        """An image in RGB.

        Raises:
            BrokenImage: It is missing, unreadable, empty, truncated, too large or no image.
            InputError: The folder itself is not there, or not to be reached (credentials, network).
        """
        return decode(self.file(i), self._bytes(self.file(i)))

    def _bytes(self, file: str) -> bytes:
        filesystem, folder = _resolve(self.address)
        try:
            with filesystem.open_input_stream(f"{folder.rstrip('/')}/{file}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            self._check_mounted()
            raise BrokenImage(file, "missing") from None
        except (OSError, pa.ArrowException) as error:
            number = getattr(error, "errno", None)
            if isinstance(filesystem, pafs.LocalFileSystem) and number not in TOO_MANY_OPEN_FILES:
                self._check_mounted()
                why = os.strerror(number) if number else brief(error)
                raise BrokenImage(file, f"unreadable ({why})") from None
            raise InputError(
                f"cannot read {self.address.rstrip('/')}/{file} ({brief(error)}): make it readable"
            ) from None

    def _check_mounted(self) -> None:
        """Else a disk that went would be so many missing images."""
        if not is_mounted(*_resolve(self.address), self.address):
            raise InputError(
                f"{self.address} is not there, or empty, on {socket.gethostname()}: mount it on "
                "every node, and the same command goes on"
            )


def decode(file: str, content: bytes) -> Image.Image:
    """The image that a file's bytes are, in RGB; BrokenImage names the file and says why not."""
    if not content:
        raise BrokenImage(file, "empty")
    stream = io.BytesIO(content)
    try:
        with Image.open(stream, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BrokenImage(file, f"too large ({width} x {height} pixels)")
            if image.mode.startswith(HIGH_BIT_DEPTH_MODES):
                raise BrokenImage(file, f"more than 8 bits a colour (PIL's mode {image.mode})")
            # PIL has read up to the first scan. Without an end libjpeg would make up the rest.
            if image.format == "JPEG" and content.find(JPEG_END, stream.tell()) < 0:
                raise BrokenImage(file, "truncated")
            image.load()
            _turn_upright(image)
            # Else PIL warns, of some palettes, that RGB cannot say what is transparent.
            image.info.pop("transparency", None)
            return image.convert("RGB")
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenImage(file, f"not an image (none of {', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenImage(file, f"too large (more than {MAX_PIXELS:,} pixels)") from None
    # The bytes are in memory: whatever a decoder raises is about them.
    except Exception as error:
        why = brief(error)
        reason = "truncated" if "truncated" in why.lower() else f"damaged ({why})"
        raise BrokenImage(file, reason) from None


def _turn_upright(image: Image.Image) -> None:
    """As its EXIF says; one that cannot be understood says nothing."""
    if "exif" in image.info:
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)


def images_address(address: str) -> str:
    """A folder of images as processes that work elsewhere know it: no ``~``, no relative path."""
    return address if "://" in address else storage.resolve(address)[1]


def find_images(address: str | Path) -> Images:
    """All images below a folder, sorted by path; hidden files and folders are left out.

    Raises:
        InputError: The folder cannot be reached, does not exist or holds no images, or a file's
            name is not UTF-8.
    """
    shown = str(address)
    filesystem, path = storage.resolve(shown)
    found = storage.info(filesystem, path, shown)
    if found.type == pafs.FileType.NotFound:
        raise InputError(f"{shown} does not exist: give the folder of the images")
    if found.is_file:
        raise InputError(f"{shown} is a file: give the folder of the images")
    contents = list_files(filesystem, path, shown)
    if not contents.images:
        raise InputError(f"{shown} holds no images ({' '.join(SUFFIXES)}){contents.describe_other_files()}")
    try:
        images = pa.array(sorted(contents.images), pa.string())
    except UnicodeEncodeError as error:
        raise InputError(
            f"{shown}: the file name {printable(error.object)} is not UTF-8: rename it"
        ) from None
    return Images(shown, images, contents.describe_left_out())


@dataclass(frozen=True, eq=False)
class CropFrames:
    """Images as frames of videos, sorted by the video's name, then by frame.

    Attributes:
        images: They, N in this order.
        names: The videos, in name order.
        video: Index into ``names``, int32, shape (N,).
        frame: Frame number, int32, shape (N,).
        missing_images: What the annotation files list and no image is there for, as they name it.
    """

    images: Images
    names: tuple[str, ...]
    video: Int32[np.ndarray, " N"]
    frame: Int32[np.ndarray, " N"]
    missing_images: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)


def frames_of(images: Images, challenge: Challenge | None = None) -> CropFrames:
    """Images as frames: the video is the folder, the frame the digits at the end of the stem.

    Args:
        images: In any order.
        challenge: Keep only the frames that its files list.

    Raises:
        InputError: An image without a video or a frame number, two images of one frame, a frame
            beyond 2^31 - 1, or none of the listed frames.
    """
    names, video, frame = _parse(images)
    packed = pack(video, frame)
    order = np.argsort(packed, kind="stable")
    again = np.flatnonzero(np.diff(packed[order]) == 0)
    if len(again):
        first, second = (images.file(int(order[i])) for i in (again[0], again[0] + 1))
        raise InputError(
            f"{images.address}: {first} and {second} are images of one frame: keep one of them"
        )
    missing_images: tuple[str, ...] = ()
    if challenge is not None:
        listed = _listed(names, challenge)
        order = order[np.isin(packed[order], listed)]
        without = np.flatnonzero(~np.isin(listed, packed))
        missing_images = tuple(_listed_name(challenge, int(row)) for row in without)
        if not len(order):
            raise InputError(
                f"{images.address} has no image of the {len(listed):,} listed frames (they list "
                f"{missing_images[0]}, it has {images.file(0)}): give the images of these annotations"
            )
    kept, video = np.unique(video[order], return_inverse=True)
    return CropFrames(
        images.take(order.astype(np.int32)),
        tuple(names[i] for i in kept),
        video.astype(np.int32),
        frame[order],
        missing_images,
    )


def _parse(images: Images) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names of the videos, sorted; each image's video and frame."""
    code_of: dict[str, int] = {}
    video = np.empty(len(images), np.int32)
    frame = np.empty(len(images), np.int32)
    for i, file in enumerate(images.files.to_pylist()):
        match = IMAGE_PATTERN.fullmatch(file)
        if match is None:
            raise InputError(_unnamed(images.address, file))
        number = int(match["frame"])
        if number > MAX_FRAME:
            raise InputError(
                f"{images.address}: frame number {number} of {file} is beyond 2^31 - 1: rename it"
            )
        video[i], frame[i] = code_of.setdefault(match["video"], len(code_of)), number
    names = sorted(code_of)
    rank = np.empty(len(names), np.int32)
    rank[[code_of[name] for name in names]] = np.arange(len(names), dtype=np.int32)
    return names, rank[video], frame


def _unnamed(address: str, file: str) -> str:
    if "/" not in file:
        return (
            f"{address}: {file} lies in no video's folder: images must lie as video/00001.jpg "
            "below the folder that is given"
        )
    return f"{address}: {file} has no frame number: its name must end in one, as video/00001.jpg"


def _listed(names: list[str], challenge: Challenge) -> np.ndarray:
    """The listed frames packed as the images' are; negative for a video without images."""
    index = {name: i for i, name in enumerate(names)}
    listing = challenge.listing
    codes = np.array([index.get(name, -1) for name in listing.names], np.int32)
    return np.where(codes[listing.video] < 0, -1, pack(codes[listing.video], listing.frame))


def _listed_name(challenge: Challenge, row: int) -> str:
    listing = challenge.listing
    name = challenge.image_name.format(frame=int(listing.frame[row]))
    return f"{listing.names[listing.video[row]]}/{name}"
