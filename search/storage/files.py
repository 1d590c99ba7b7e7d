"""Files on a disk or in an object store: what the ledger needs beyond reading and writing whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pruning.errors import UserError
from pruning.models import files


@dataclass(frozen=True)
class Location:
    """A path on an opened file system; `location / "name"` is a path below it."""

    filesystem: fs.FileSystem
    path: str

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.filesystem.type_name}://{self.path}"

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def parent(self) -> Location:
        return Location(self.filesystem, self.path.rpartition("/")[0])

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


def open_uri(address: str | os.PathLike[str]) -> Location:
    """Location of a local path or of a URI (file://, s3://, gs://, ...); UserError if unknown."""
    filesystem, path = files.filesystem(address)
    return Location(filesystem, path.rstrip("/"))


def inside(run: str, address: str) -> str:
    """Where a file of a run is now, by the folder and name of its address when it was written.

    So a run that was renamed or copied goes on with its own files.
    """
    path = own_path(address)
    return files.join(run, *path.split("/")) if path else ""


def own_path(address: str) -> str:
    """Folder and name of a file of a run, by its address when it was written."""
    path = address.partition("?")[0] if "://" in address else address
    return "/".join(name for name in path.split("/")[-2:] if name not in ("", ".", ".."))


def write_atomic(location: Location, data: bytes) -> None:
    """Write all of `data` or nothing: temp and rename on disks, one put on object stores.

    Raises UserError, naming path and remedy, where it cannot be written.
    """
    if location.is_local:
        files.write(location.path, data)
        return
    try:
        with location.filesystem.open_output_stream(location.path) as stream:
            stream.write(data)
    except OSError as error:
        line = str(error).strip().split("\n")[0]
        raise UserError(f"cannot write {location} ({line}); check address and access") from error


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
        write_atomic(probe, b"probe")
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


def read_bytes(location: Location) -> bytes:
    """The whole content; FileNotFoundError where there is none, UserError without access."""
    with (
        _explained(location),
        location.filesystem.open_input_stream(location.path) as stream,
    ):
        return bytes(stream.read())


def read_parquet(location: Location) -> pa.Table:
    """A Parquet table; FileNotFoundError where there is none, ArrowInvalid if it is damaged."""
    # read by this thread alone: a short process could otherwise abort in pyarrow's pool at its end
    return pq.ParquetFile(pa.BufferReader(read_bytes(location))).read(use_threads=False)


def exists(location: Location) -> bool:
    with _explained(location):
        return location.filesystem.get_file_info(location.path).type != fs.FileType.NotFound


def is_folder(location: Location) -> bool:
    with _explained(location):
        return location.filesystem.get_file_info(location.path).type == fs.FileType.Directory


def list_files(location: Location, suffix: str = "") -> list[Location]:
    """Files directly in a folder, by name; hidden ones, unfinished writes included, left out."""
    names = _names(location, fs.FileType.File)
    return [location / name for name in names if name.endswith(suffix) and name[0] != "."]


def list_folders(location: Location) -> list[Location]:
    """Folders directly in a folder, by name."""
    return [location / name for name in _names(location, fs.FileType.Directory)]


def remove_folder(location: Location) -> None:
    """Delete a folder and all that is in it."""
    location.filesystem.delete_dir(location.path)


def remove_file(location: Location) -> None:
    location.filesystem.delete_file(location.path)


def set_aside(location: Location, suffix: str = ".damaged") -> Location | None:
    """Rename a file out of the way; None where that cannot be done."""
    aside = Location(location.filesystem, location.path + suffix)
    try:
        location.filesystem.move(location.path, aside.path)
    except OSError:
        return None
    return aside


def _names(location: Location, kind: fs.FileType) -> list[str]:
    selector = fs.FileSelector(location.path, allow_not_found=True)
    with _explained(location):
        infos = location.filesystem.get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == kind)


@contextmanager
def _explained(location: Location) -> Iterator[None]:
    """UserError for what a store refuses; that there is no such file stays what it is."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        line = str(error).strip().split("\n")[0]
        raise UserError(f"cannot read {location} ({line}); check address and access") from error
