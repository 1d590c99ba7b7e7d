"""Read and write whole files, and safetensors, at local paths or object-store addresses."""

from __future__ import annotations

import io
import json
import os
import re
import urllib.request
import uuid
from typing import IO, TYPE_CHECKING
from urllib.parse import parse_qsl

import pyarrow as pa
from pyarrow import fs
from safetensors import SafetensorError

from pruning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

OBJECT_STORES = ("s3", "gcs", "abfs")  # a file appears there whole when its stream is closed
SECRET = re.compile(r"secret|passw|token|signature|credential|(access|account)_?key|^sig$", re.I)
PICKLES = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".tar")


def read(uri: str | os.PathLike[str]) -> bytes:
    """The whole file at a local path, a pyarrow.fs URI or an http(s) address."""
    with open_input(uri) as stream:
        return stream.read()


def write(uri: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that no reader ever sees a part of it; folders are made as needed."""
    try:
        store, path = filesystem(uri)
        if store.type_name in OBJECT_STORES:
            with store.open_output_stream(path) as stream:
                stream.write(data)
            return
        folder, name = os.path.split(path)
        store.create_dir(folder, recursive=True)
        part = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
        try:
            with store.open_output_stream(part) as stream:
                stream.write(data)
            store.move(part, path)
        except BaseException:
            if store.get_file_info(part).type != fs.FileType.NotFound:
                store.delete_file(part)
            raise
    except OSError as error:
        raise UserError(f"cannot write {uri} ({_line(error)}); choose another place") from error


def filesystem(uri: str | os.PathLike[str]) -> tuple[fs.FileSystem, str]:
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


def refuse_secrets(uri: str | os.PathLike[str]) -> None:
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


def same_file(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Whether two addresses name one file, links followed on local disks."""
    if (known := os.fspath(b)).startswith(("http://", "https://", "torchvision:")):
        return os.fspath(a) == known
    (store, path), (other, there) = filesystem(a), filesystem(b)
    if isinstance(store, fs.LocalFileSystem) and isinstance(other, fs.LocalFileSystem):
        return os.path.realpath(path) == os.path.realpath(there) or (
            os.path.exists(path) and os.path.exists(there) and os.path.samefile(path, there)
        )
    return bool(store == other) and path == there


def join(uri: str | os.PathLike[str], *names: str) -> str:
    """Address of a file below a folder; a query, as in s3://b/run?region=x, stays last."""
    folder, mark, query = (
        os.fspath(uri).partition("?") if "://" in os.fspath(uri) else (os.fspath(uri), "", "")
    )
    return "/".join([folder.rstrip("/"), *names]) + mark + query


def open_input(uri: str | os.PathLike[str]) -> IO[bytes]:
    """Seekable binary stream of a file; UserError where there is none."""
    refuse_secrets(uri)
    try:
        if os.fspath(uri).startswith(("http://", "https://")):
            with urllib.request.urlopen(os.fspath(uri), timeout=60) as response:
                return io.BytesIO(response.read())
        store, path = filesystem(uri)
        return store.open_input_file(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {uri}; check the path") from error
    except OSError as error:
        raise UserError(f"cannot read {uri} ({_line(error)}); check address and access") from error


def read_tensors(uri: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. UserError for a pickle or a damaged file."""
    import safetensors.torch  # and torch: reading a table needs neither

    _refuse_pickle(uri)
    data = read(uri)
    metadata = _metadata(io.BytesIO(data), uri)
    try:
        return safetensors.torch.load(data), metadata
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(uri) from error


def read_metadata(uri: str | os.PathLike[str]) -> dict[str, str]:
    """Metadata of a safetensors file; reads its header only."""
    _refuse_pickle(uri)
    with open_input(uri) as stream:
        return _metadata(stream, uri)


def write_tensors(
    uri: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write one safetensors file (see `write`)."""
    import safetensors.torch

    write(uri, safetensors.torch.save(tensors, metadata))


def _metadata(stream: IO[bytes], uri: str | os.PathLike[str]) -> dict[str, str]:
    """Header of a safetensors file: its length as 8 bytes, little endian, then that much JSON."""
    total = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= total - 8:
        raise _damaged(uri)
    try:
        header = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise _damaged(uri) from error
    if end != total - 8 - length or not isinstance(metadata, dict):
        raise _damaged(uri)
    return metadata


def _refuse_pickle(uri: str | os.PathLike[str]) -> None:
    if os.fspath(uri).endswith(PICKLES):
        raise UserError(
            f"{uri} is a pickle, which is never opened here since it can run code; convert it with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'NEW.safetensors')"
        )


def _damaged(uri: str | os.PathLike[str]) -> UserError:
    return UserError(f"{uri} is no safetensors file, or a damaged one; copy or make it again")


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
