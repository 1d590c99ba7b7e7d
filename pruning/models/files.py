"""Files on a disk or in an object store, by address: the one layer above pyarrow.fs."""

from __future__ import annotations

import errno
import io
import os
import re
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO
from urllib.parse import parse_qsl

import pyarrow as pa
from pyarrow import fs

from pruning.errors import UserError

OBJECT_STORES = ("s3", "gcs", "abfs")  # a file appears there whole when its stream is closed
SECRET = re.compile(r"secret|passw|token|signature|credential|(access|account)_?key|^sig$", re.I)
Address = str | os.PathLike[str]
"""A local path, or a URI (file://, s3://, gs://, ...)."""


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


def open_uri(address: Address) -> Location:
    """Location of a local path or of a URI (file://, s3://, gs://, ...); UserError if unknown."""
    store, path = filesystem(address)
    return Location(store, path.rstrip("/"))


def filesystem(uri: Address) -> tuple[fs.FileSystem, str]:
    """The file system of an address and the path in it; a plain path is local."""
    uri = os.fspath(uri)
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    refuse_secrets(uri)
    try:
        return fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{uri} is no address of a known store; use a path, file://, s3:// or gs://"
        ) from error
    except OSError as error:
        raise UserError(f"cannot reach {uri} ({_line(error)}); check address and access") from error


def join(uri: Address, *names: str) -> str:
    """Address of a file below a folder; a query, as in s3://b/run?region=x, stays last."""
    folder, mark, query = (
        os.fspath(uri).partition("?") if "://" in os.fspath(uri) else (os.fspath(uri), "", "")
    )
    return "/".join([folder.rstrip("/"), *names]) + mark + query


def same_file(a: Address, b: Address) -> bool:
    """Whether two addresses name one file, links followed on local disks."""
    if (known := os.fspath(b)).startswith(("http://", "https://", "torchvision:")):
        return os.fspath(a) == known
    (store, path), (other, there) = filesystem(a), filesystem(b)
    if isinstance(store, fs.LocalFileSystem) and isinstance(other, fs.LocalFileSystem):
        return os.path.realpath(path) == os.path.realpath(there) or (
            os.path.exists(path) and os.path.exists(there) and os.path.samefile(path, there)
        )
    return bool(store == other) and path == there


def write(place: Address | Location, data: bytes) -> None:
    """Write a file so that no reader ever sees a part of it; folders are made as needed.

    Temp and rename on disks, one put on object stores. UserError, naming path and remedy, where it
    cannot be written.
    """
    location = place if isinstance(place, Location) else open_uri(place)
    store = location.filesystem
    try:
        if store.type_name in OBJECT_STORES:
            with store.open_output_stream(location.path) as stream:
                stream.write(data)
            return
        store.create_dir(location.parent.path, recursive=True)
        part = location.parent / f".{location.name}.{uuid.uuid4().hex}"
        try:
            with store.open_output_stream(part.path) as stream:
                stream.write(data)
            store.move(part.path, location.path)
        except BaseException:
            if exists(part):
                remove_file(part)
            raise
    except OSError as error:
        remedy = "choose another place" if location.is_local else "check address and access"
        if error.errno == errno.ENOSPC:
            remedy = f"make room there, or {remedy}"
        raise UserError(f"cannot write {place} ({_line(error)}); {remedy}") from error


def read(uri: Address) -> bytes:
    """The whole file at a local path, a pyarrow.fs URI or an http(s) address."""
    with open_input(uri) as stream:
        return stream.read()


def read_bytes(location: Location) -> bytes:
    """The whole content; FileNotFoundError where there is none, UserError without access."""
    with (
        _explained(location),
        location.filesystem.open_input_stream(location.path) as stream,
    ):
        return bytes(stream.read())


def open_input(uri: Address) -> IO[bytes]:
    """Seekable binary stream of a file or http(s) address; UserError where there is none."""
    refuse_secrets(uri)
    try:
        with _explained(uri):
            if os.fspath(uri).startswith(("http://", "https://")):
                with urllib.request.urlopen(os.fspath(uri), timeout=60) as response:
                    return io.BytesIO(response.read())
            store, path = filesystem(uri)
            return store.open_input_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no file {uri}; check the path") from error


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


def _names(location: Location, kind: fs.FileType) -> list[str]:
    selector = fs.FileSelector(location.path, allow_not_found=True)
    with _explained(location):
        infos = location.filesystem.get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == kind)


def refuse_secrets(uri: Address) -> None:
    """UserError for an address with a user, a password or a key in it.

    Addresses are written into records, reports and logs, and shown.
    """
    scheme, mark, rest = os.fspath(uri).partition("://")
    if not mark:
        return
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = host.rpartition("@")
    if ":" not in user and scheme in ("abfs", "abfss", "gs", "gcs"):
        at = ""  # names a container, or nobody
    taken = [name for name, _ in parse_qsl(rest.partition("?")[2]) if SECRET.search(name)]
    if at or taken:
        shown = rest.partition("?")[0].removeprefix(user + at)
        raise UserError(
            f"{scheme}://{shown} was given with a {'user or key' if at else taken[0]} in the "
            "address, which would be written down with it; leave it out, and name it in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the store's own files"
        )


@contextmanager
def _explained(place: Address | Location) -> Iterator[None]:
    """UserError for what a store refuses; that there is no such file stays what it is."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UserError(
            f"cannot read {place} ({_line(error)}); check address and access"
        ) from error


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
