"""Safetensors files: tensors and metadata, checked before they are believed; no pickle."""

from __future__ import annotations

import io
import json
import os
from typing import IO, TYPE_CHECKING

from safetensors import SafetensorError

from pruning.errors import UserError
from pruning.models.files import Address, open_input, read, write

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".tar")


def read_tensors(uri: Address) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. UserError for a pickle or a damaged file."""
    import safetensors.torch  # and torch: reading a table needs neither

    _refuse_pickle(uri)
    data = read(uri)
    metadata = _metadata(io.BytesIO(data), uri)
    try:
        return safetensors.torch.load(data), metadata
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(uri) from error


def read_metadata(uri: Address) -> dict[str, str]:
    """Metadata of a safetensors file; reads its header only."""
    _refuse_pickle(uri)
    with open_input(uri) as stream:
        return _metadata(stream, uri)


def write_tensors(uri: Address, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one safetensors file (see `write`)."""
    import safetensors.torch

    write(uri, safetensors.torch.save(tensors, metadata))


def _metadata(stream: IO[bytes], uri: Address) -> dict[str, str]:
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


def _refuse_pickle(uri: Address) -> None:
    if os.fspath(uri).endswith(PICKLES):
        raise UserError(
            f"{uri} is a pickle, which is never opened here since it can run code; convert it with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'NEW.safetensors')"
        )


def _damaged(uri: Address) -> UserError:
    return UserError(f"{uri} is no safetensors file, or a damaged one; copy or make it again")
