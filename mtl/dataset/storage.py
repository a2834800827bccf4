"""Addresses: a local path, ``file://`` or ``s3://``, read through one file system interface."""

from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from mtl.errors import InputError, brief


def resolve(address: str | Path) -> tuple[pafs.FileSystem, str]:
    """The file system of an address and the path on it.

    S3 takes its credentials, region and ``AWS_ENDPOINT_URL`` from the environment.
    Raises InputError where the address cannot be understood or reached.
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
        raise InputError(f"{path} is below no user's folder: give it from / on") from None


def local_path(address: str | Path) -> Path:
    """The local path of an address; InputError where it is remote, as only reading is remote."""
    text = str(address)
    if "://" in text and not text.startswith("file://"):
        raise InputError(f"cannot write to {text}: write to a local folder, then copy it there")
    return Path(resolve(text)[1])


def info(filesystem: pafs.FileSystem, path: str, shown: str) -> pafs.FileInfo:
    """Type and size of a path; InputError where it cannot be reached."""
    try:
        return filesystem.get_file_info(path)
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise InputError(f"cannot reach {shown} ({brief(error)}): check the address") from None


def files_under(filesystem: pafs.FileSystem, path: str) -> list[str]:
    """The Parquet files directly in a folder, in name order."""
    found = filesystem.get_file_info(pafs.FileSelector(path))
    return sorted(f.path for f in found if f.is_file and PurePosixPath(f.path).suffix == ".parquet")
