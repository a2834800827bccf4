"""Access to files by address: a local path, ``file://`` or ``s3://``."""

from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from mtl.errors import InputError, brief


def resolve(address: str | Path) -> tuple[pafs.FileSystem, str]:
    """Return the file system of an address and the path on that file system.

    S3 credentials, the region and ``AWS_ENDPOINT_URL`` are taken from the environment.

    Args:
        address: Local path, ``file://`` or ``s3://`` address.

    Raises:
        InputError: If the address is malformed, holds credentials, or cannot be reached.
    """
    text = str(address)
    if "://" not in text:
        return pafs.LocalFileSystem(), str(_expanded(Path(text)).absolute())
    if "@" in text.split("://", 1)[1].split("/", 1)[0]:
        raise InputError(
            f"the {text.split('://', 1)[0]}:// address holds credentials (all before its @), which "
            "would be written to logs: give them in the environment (AWS_ACCESS_KEY_ID ...)"
        )
    try:
        filesystem, path = pafs.FileSystem.from_uri(text)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot reach {text} ({brief(error)}): check the address") from None
    return filesystem, path


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise InputError(
            f"{path} names a home folder that does not exist: give the path from / on"
        ) from None


def local_path(address: str | Path) -> Path:
    """Return the local path of the address that a dataset is to be written to.

    Args:
        address: Local path or ``file://`` address.

    Raises:
        InputError: If the address is remote; datasets are written locally only.
    """
    text = str(address)
    if "://" in text and not text.startswith("file://"):
        raise InputError(f"cannot write to {text}: write to a local folder, then copy it there")
    return Path(resolve(text)[1])


def info(filesystem: pafs.FileSystem, path: str, shown: str) -> pafs.FileInfo:
    """Return the type (file, folder or not found) and the size of a path.

    Args:
        filesystem: File system of the path.
        path: Path on that file system; it need not exist.
        shown: Name of the path in messages.

    Raises:
        InputError: If the path cannot be reached.
    """
    try:
        return filesystem.get_file_info(path)
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise InputError(f"cannot reach {shown} ({brief(error)}): check the address") from None


def files_under(filesystem: pafs.FileSystem, path: str) -> list[str]:
    """Return the paths of the Parquet files directly in a folder, in name order."""
    entries = filesystem.get_file_info(pafs.FileSelector(path))
    return sorted(
        f.path for f in entries if f.is_file and PurePosixPath(f.path).suffix == ".parquet"
    )
