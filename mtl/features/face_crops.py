"""Face crops in a local or S3 folder: their paths, their pixels, and their videos and frames.

The path of an image is ``<folder>/<video>/<00001>.jpg``; a video's name may contain slashes.
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
"""Image formats that are decoded, by PIL's names; a file's name does not matter.

No other decoder runs, because a decoder may have faults that a malicious file exploits.
"""
MAX_PIXELS = 64 * 2**20
"""Maximum number of pixels of an image; a larger image counts as broken."""
HIGH_BIT_DEPTH_MODES = ("I", "F")
"""First letters of the PIL modes with more than 8 bits per colour, which PIL clips to 8 bits."""
JPEG_END = b"\xff\xd9"
"""Marker at the end of every complete JPEG file."""
TOO_MANY_OPEN_FILES = (errno.EMFILE, errno.ENFILE)
"""Error numbers of the operating system for too many open files in a process or on a machine."""

_resolve = lru_cache(maxsize=8)(storage.resolve)
"""Cached ``storage.resolve``, which needs a network request to find the region of an S3 bucket."""


class BrokenImage(Exception):
    """Error for one image that cannot be read or decoded.

    Attributes:
        file: Path of the image below the folder of the images.
        reason: Reason in a few words, such as ``missing``, ``unreadable (...)``, ``empty``,
            ``truncated`` or ``not an image (...)``.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Images:
    """Paths of the images below one folder, and methods to read the images.

    The paths of a million images take less than 40 MB, and pickling does not copy them.

    Attributes:
        address: Address of the folder, local or ``s3://``.
        files: Paths of the N images below the folder, an Arrow array of strings.
        left_out: Message about other files in the folder; empty if there are none.
    """

    address: str
    files: pa.Array
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def file(self, i: int) -> str:
        """Return the path of image ``i`` below the folder."""
        return str(self.files[i])

    def take(self, rows: Int[np.ndarray, " n"] | list[int]) -> "Images":
        """Return the images with the indices ``rows``, in this order."""
        return Images(self.address, self.files.take(pa.array(rows)))

    def read(self, i: int) -> Image.Image:
        """Return image ``i`` in RGB.

        Raises:
            BrokenImage: The file is missing, unreadable, empty, truncated, too large or no image.
            InputError: The folder of the images does not exist or cannot be reached.
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
        """Raise InputError if the image folder is missing or empty (its disk is not mounted).

        Otherwise every image of a lost folder would be reported as missing.
        """
        if not is_mounted(*_resolve(self.address), self.address):
            raise InputError(
                f"{self.address} does not exist or is empty on {socket.gethostname()}: mount it on "
                "every node and run the same command again to continue"
            )


def decode(file: str, content: bytes) -> Image.Image:
    """Return the decoded image in RGB, upright according to its EXIF data.

    Args:
        file: Path of the file, for messages.
        content: Bytes of the file.

    Raises:
        BrokenImage: The bytes are no complete image of one of ``FORMATS`` with 8 bits per colour,
            or the image is too large.
    """
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
            # PIL has read up to the first scan. libjpeg would invent the pixels of a missing end.
            if image.format == "JPEG" and content.find(JPEG_END, stream.tell()) < 0:
                raise BrokenImage(file, "truncated")
            image.load()
            _turn_upright(image)
            # PIL warns about some transparent palettes when it converts them to RGB.
            image.info.pop("transparency", None)
            return image.convert("RGB")
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenImage(file, f"not an image (none of {', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenImage(file, f"too large (more than {MAX_PIXELS:,} pixels)") from None
    # The bytes are in memory, so every other error of a decoder is due to their content.
    except Exception as error:
        why = brief(error)
        reason = "truncated" if "truncated" in why.lower() else f"damaged ({why})"
        raise BrokenImage(file, reason) from None


def _turn_upright(image: Image.Image) -> None:
    """Rotate or flip an image in place by its EXIF orientation; invalid EXIF data are ignored."""
    if "exif" in image.info:
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)


def images_address(address: str) -> str:
    """Return an image folder's address that every process can use: absolute, without ``~``."""
    return address if "://" in address else storage.resolve(address)[1]


def find_images(address: str | Path) -> Images:
    """Return all images below a folder, sorted by path, without hidden files and folders.

    Args:
        address: Address of the folder, local or ``s3://``.

    Raises:
        InputError: The folder cannot be reached, does not exist or holds no images, or the name of
            an image is not UTF-8.
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
        suffixes = " ".join(SUFFIXES)
        raise InputError(f"{shown} holds no images ({suffixes}){contents.describe_other_files()}")
    try:
        images = pa.array(sorted(contents.images), pa.string())
    except UnicodeEncodeError as error:
        raise InputError(
            f"{shown}: the file name {printable(error.object)} is not UTF-8: rename it"
        ) from None
    return Images(shown, images, contents.describe_left_out())


@dataclass(frozen=True, eq=False)
class CropFrames:
    """Images with their videos and frame numbers, sorted by the video's name, then by frame.

    Attributes:
        images: The N images in this order.
        names: Names of the videos, sorted.
        video: Index into ``names`` of each image, int32, shape (N,).
        frame: Frame number of each image, int32, shape (N,).
        missing_images: Names of the images that the annotation files list and the folder lacks.
    """

    images: Images
    names: tuple[str, ...]
    video: Int32[np.ndarray, " N"]
    frame: Int32[np.ndarray, " N"]
    missing_images: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)


def frames_of(images: Images, challenge: Challenge | None = None) -> CropFrames:
    """Find the video and the frame number of each image from its path, and sort the images by them.

    The video's name is the path of the folder of the image, and the frame number is the digits at
    the end of the file's name before its suffix.

    Args:
        images: Images in any order.
        challenge: Annotation files; if given, only images of frames named in these files are kept.

    Raises:
        InputError: The path of an image has no video or no frame number, two images are of one
            frame, a frame number is beyond 2^31 - 1, or no frame of the annotation files has an
            image.
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
        listed = _packed_listed_frames(names, challenge)
        order = order[np.isin(packed[order], listed)]
        without = np.flatnonzero(~np.isin(listed, packed))
        missing_images = tuple(_listed_image_path(challenge, int(row)) for row in without)
        if not len(order):
            raise InputError(
                f"{images.address} has no image of the {len(listed):,} listed frames (the "
                f"annotation files list {missing_images[0]}, the folder has {images.file(0)}): "
                "give the images of these annotations"
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
    """Return the sorted video names, and the video index and frame number of each image."""
    code_of: dict[str, int] = {}
    video = np.empty(len(images), np.int32)
    frame = np.empty(len(images), np.int32)
    for i, file in enumerate(images.files.to_pylist()):
        match = IMAGE_PATTERN.fullmatch(file)
        if match is None:
            raise InputError(_bad_path_message(images.address, file))
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


def _bad_path_message(address: str, file: str) -> str:
    if "/" not in file:
        return (
            f"{address}: {file} is in no video's folder: the path of an image below this folder "
            "must be as video/00001.jpg"
        )
    return f"{address}: {file} has no frame number: its name must end in one, as video/00001.jpg"


def _packed_listed_frames(names: list[str], challenge: Challenge) -> np.ndarray:
    """Return the video and frame of each frame of the annotation files, packed into one integer.

    The integer is -1 for a frame of a video without images.

    Args:
        names: Sorted names of the videos with images; an integer holds an index into these names.
        challenge: Annotation files.
    """
    index = {name: i for i, name in enumerate(names)}
    listing = challenge.listing
    codes = np.array([index.get(name, -1) for name in listing.names], np.int32)
    return np.where(codes[listing.video] < 0, -1, pack(codes[listing.video], listing.frame))


def _listed_image_path(challenge: Challenge, row: int) -> str:
    """Return the path of a listed frame's image, as the annotation files write it.

    Args:
        challenge: Annotation files.
        row: Index of the frame among all frames of the annotation files.
    """
    listing = challenge.listing
    name = challenge.image_name.format(frame=int(listing.frame[row]))
    return f"{listing.names[listing.video[row]]}/{name}"
