"""What `ray job submit --working-dir` would upload, by Ray's own rules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.errors import UserError
from search.config import human

IGNORED = (
    ".git/",
    ".venv/",
    "__pycache__/",
    ".*_cache/",
    "*.egg-info/",
    "runs/",
    "*.safetensors",
    "*.parquet",
)
"""Left out where a folder has no .rayignore of its own."""


# what of Ray's own rules is used, none of it public
USED = ("_get_excludes", "_dir_travel", "GCS_STORAGE_MAX_SIZE")


def _internals() -> tuple[Any, Any]:
    """Ray's constants and packaging; UserError where this Ray has them no longer."""
    try:
        from ray._private import ray_constants
        from ray._private.runtime_env import packaging
    except ImportError as error:
        missing: object = error
    else:
        lacking = [name for name in USED if not hasattr(packaging, name)]
        if not lacking:
            return ray_constants, packaging
        missing = lacking[0]
    import ray

    raise UserError(
        f"ray {ray.__version__} lists its uploads in another way ({missing}); use `ray job submit` "
        "itself, or the version of ray that slimfront was tested with"
    )


def files(folder: Path, excludes: Sequence[str]) -> list[tuple[Path, int]]:
    """(path, bytes) of each file that would go, the largest first.

    .gitignore and .rayignore count at every level, as does Ray's own list.
    """
    constants, packaging = _internals()
    default: list[str] = getattr(constants, "get_runtime_env_default_excludes", list)()
    found: list[tuple[Path, int]] = []

    def note(path: Path) -> None:
        if path.is_file():
            found.append((path, path.stat().st_size))

    rule = packaging._get_excludes(folder, [*default, *excludes])
    quiet = logging.getLogger(__name__)  # Ray names each ignore file at level info
    packaging._dir_travel(folder, [rule], note, include_gitignore=True, logger=quiet)
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))


def show(folder: Path, excludes: Sequence[str], count: int) -> None:
    """Print the largest files and the total; UserError where Ray would refuse the whole."""
    most: int = _internals()[1].GCS_STORAGE_MAX_SIZE
    found = files(folder, excludes)
    total = sum(size for _, size in found)
    print(f"{len(found)} files of {human(total)}B would be uploaded from {folder}")
    for path, size in found[:count]:
        print(f"  {human(size):>8}B  {path.relative_to(folder)}")
    if not (folder / ".rayignore").is_file():
        print(f"no .rayignore there, so left out: {' '.join(IGNORED)}")
    if any(path.relative_to(folder).parts[0] == ".git" for path, _ in found):
        print("the history in .git would go too; write .git/ into .rayignore")
    if total > most:
        raise UserError(
            f"{human(total)}B is more than the {human(most)}B that Ray takes; "
            f"leave out {found[0][0].relative_to(folder)} and the like by .rayignore or --exclude"
        )
