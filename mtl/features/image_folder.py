"""Recursive listing of an image folder on a local or a remote file system."""

import os
import stat
from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from mtl.dataset import storage
from mtl.errors import InputError, brief

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class FolderContents(NamedTuple):
    """Paths below a folder, in any order, without hidden files and folders.

    Attributes:
        images: Files with a suffix in ``SUFFIXES``, also broken links; reading such a link fails
            with the reason ``missing``.
        others: All other files.
        folders_without_images: Folders without subfolders that hold no image; always empty for a
            remote file system.
    """

    images: list[str]
    others: list[str]
    folders_without_images: list[str]

    def describe_left_out(self) -> str:
        """Return a message about non-image files and imageless folders; empty if there are none.

        Example: ``left out 3 files that are no images (such as a/notes.txt)``.
        """
        counts = [
            f"{len(paths):,} {kind} (such as {printable(min(paths))})"
            for paths, kind in (
                (self.others, "files that are no images"),
                (self.folders_without_images, "folders without images"),
            )
            if paths
        ]
        return f"left out {' and '.join(counts)}" if counts else ""

    def describe_other_files(self) -> str:
        """Return the end of an error message about a folder that holds no images.

        Example: `` but 2 .npy files, such as a/1.npy: give the folder of the images``.
        """
        if not self.others:
            return " and no other files: give the folder of the images"
        suffixes = Counter(PurePosixPath(file).suffix for file in self.others)
        (suffix, most), *_ = suffixes.most_common(1)
        kind = f"{suffix} files" if suffix else "files without a suffix"
        such = printable(min(self.others))
        return f" but {most:,} {kind}, such as {such}: give the folder of the images"


def list_files(filesystem: pafs.FileSystem, folder: str, shown: str) -> FolderContents:
    """Return all files below an existing folder, sorted into images and others.

    Args:
        filesystem: File system of the folder.
        folder: Path of the folder in the file system.
        shown: Address of the folder, for messages.

    Raises:
        InputError: The folder or a folder below it cannot be listed.
    """
    if isinstance(filesystem, pafs.LocalFileSystem):
        return _list_local(folder)
    try:
        under = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot list {shown} ({brief(error)}): check it") from None
    start = len(folder.rstrip("/")) + 1
    files = [f.path[start:] for f in under if f.type != pafs.FileType.Directory]
    found = FolderContents([], [], [])
    for file in files:
        if "/." not in f"/{file}":
            (found.images if _is_named_as_image(file) else found.others).append(file)
    return found


def _list_local(root: str) -> FolderContents:
    """Return all files below a local folder, without a ``stat`` call for regular files.

    Links are followed, except a link to a folder that contains the link.
    """
    found = FolderContents([], [], [])
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while waiting:
        below, above = waiting.pop()
        inner, before = [], len(found.images)
        for entry in _entries(f"{root}/{below}"):
            kind = _kind(entry)
            if kind == stat.S_IFDIR:
                inner.append(entry)
            elif kind == stat.S_IFREG and _is_named_as_image(entry.name):
                found.images.append(below + entry.name)
            else:
                found.others.append(below + entry.name)
        if below and not inner and len(found.images) == before:
            found.folders_without_images.append(below.rstrip("/"))
        for entry in inner:
            real = os.path.realpath(entry) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
            if not any(f"{folder}/".startswith(f"{real.rstrip('/')}/") for folder in above):
                waiting.append((f"{below}{entry.name}/", (*above, real)))
    return found


def _entries(folder: str) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot list {printable(folder)} ({error.strerror}): check it") from None


def _kind(entry: "os.DirEntry[str]") -> int:
    """Return the file type of a folder's entry: ``stat.S_IFDIR``, ``stat.S_IFREG`` or another.

    A link has the type of its target; a broken link counts as a regular file.
    """
    try:
        if entry.is_file(follow_symlinks=False):
            return stat.S_IFREG
        if entry.is_dir(follow_symlinks=False):
            return stat.S_IFDIR
        return stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return stat.S_IFREG


def _is_named_as_image(file: str) -> bool:
    return file.lower().endswith(SUFFIXES)


def is_mounted(filesystem: pafs.FileSystem, folder: str, shown: str) -> bool:
    """Return True if a folder exists and, if it is local, holds at least one entry.

    An empty local folder may be a mount point whose disk is not mounted.

    Args:
        filesystem: File system of the folder.
        folder: Path of the folder in the file system.
        shown: Address of the folder, for messages.
    """
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return bool(storage.info(filesystem, folder, shown).type != pafs.FileType.NotFound)
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def printable(path: str) -> str:
    """Return a path with escape sequences for bytes that are not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()
