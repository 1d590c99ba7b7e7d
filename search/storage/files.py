"""What a run needs of its files beyond the library's layer, `pruning.models.files`."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pruning.errors import UserError
from pruning.models import files

Location = files.Location
open_uri, join = files.open_uri, files.join
write, read_bytes = files.write, files.read_bytes
exists, is_folder = files.exists, files.is_folder
list_files, list_folders = files.list_files, files.list_folders
remove_file, remove_folder = files.remove_file, files.remove_folder


def inside(run: str, address: str) -> str:
    """Where a file of a run is now, by the folder and name of its address when it was written.

    So a run that was renamed or copied goes on with its own files.
    """
    path = own_path(address)
    return join(run, *path.split("/")) if path else ""


def own_path(address: str) -> str:
    """Folder and name of a file of a run, by its address when it was written."""
    path = address.partition("?")[0] if "://" in address else address
    return "/".join(name for name in path.split("/")[-2:] if name not in ("", ".", ".."))


def check_writable(folder: Location) -> None:
    """UserError unless a file can be written into `folder`, which is then as it was."""
    bucket = Location(folder.filesystem, folder.path.partition("/")[0])
    if not folder.is_local and not exists(bucket):
        raise UserError(
            f"there is no bucket {bucket.path}, or no access to it; make it, or correct the address"
        )
    made = missing_folders(folder)
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        write(probe, b"probe")
        remove_file(probe)
    finally:
        for path in made:
            with suppress(OSError):  # another's file has come into it
                path.rmdir()


def missing_folders(location: Location) -> list[Path]:
    """The local folders that writing into one makes, itself first."""
    if not location.is_local:
        return []
    path = Path(location.path)
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def read_parquet(location: Location) -> pa.Table:
    """A Parquet table; FileNotFoundError where there is none, ArrowInvalid if it is damaged."""
    # read by this thread alone: a short process could otherwise abort in pyarrow's pool at its end
    return pq.ParquetFile(pa.BufferReader(read_bytes(location))).read(use_threads=False)


def set_aside(location: Location, suffix: str = ".damaged") -> Location | None:
    """Rename a file out of the way; None where that cannot be done."""
    aside = Location(location.filesystem, location.path + suffix)
    try:
        location.filesystem.move(location.path, aside.path)
    except OSError:
        return None
    return aside
