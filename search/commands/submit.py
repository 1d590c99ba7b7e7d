"""`slimfront submit`: the `ray job submit` line of a search, and what it would upload."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.errors import UserError
from search.commands import upload
from search.config import Parser, is_local, refuse_secrets
from search.config import loader as configuration

SHOWN = 8  # files listed


@dataclass(frozen=True)
class Options:
    """Where to and what.

    Args:
        address: The cluster's dashboard, http://HOST:8265; a tunnel to it is what `ray dashboard`
            opens.
        working_dir: Folder that is uploaded and in which the job runs: CONFIG, your own factories.
        exclude: Further patterns that are not uploaded, as in .gitignore, with commas between them.
        install: What pip is to install for the job, as in slimfront==0.1.0; null where the nodes
            have it.
    """

    address: str = "http://127.0.0.1:8265"
    working_dir: str = "."
    exclude: str | None = None
    install: str | None = None


def run(argv: Sequence[str], prog: str) -> None:
    """Print the line, or run it; UserError where the job could not work."""
    ours, mark, search = _split(argv)
    parser = Parser(
        prog=prog,
        usage=f"{prog} [--address URL] [--working-dir DIR] [--run] -- [CONFIG] --out RUN …",
        description=(
            "Print the `ray job submit` line for a search on a cluster, and list what it uploads. "
            "After -- come the arguments of slimfront search. The same RUN submitted again goes on "
            "where its job stopped."
        ),
    )
    parser.add_dataclass(Options)
    parser.add_argument("--run", action="store_true", help="run the line too")
    parser.add_argument(
        "--write_rayignore",
        action="store_true",
        help="write a .rayignore into the working directory where there is none",
    )
    if not mark and not {"-h", "--help"} & set(ours):
        raise UserError(f"write the search's arguments after --: {prog} -- digits --out s3://…")
    found = parser.read(ours)
    options = Options(**{name: found[name] for name in Options.__dataclass_fields__})
    folder = Path(options.working_dir).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--working-dir {options.working_dir} is no folder; correct the path")
    excludes = [pattern.strip() for pattern in (options.exclude or "").split(",") if pattern]
    if not (folder / ".rayignore").is_file():
        excludes = [*upload.IGNORED, *excludes]
    search = check_search(search, folder, excludes)
    if found["write_rayignore"] and not (folder / ".rayignore").is_file():
        (folder / ".rayignore").write_text("\n".join(upload.IGNORED) + "\n")
    command = command_line(options, folder, excludes, search)
    upload.show(folder, excludes, SHOWN)
    print(_environment() + shlex.join(command))
    sys.stdout.flush()
    if found["run"]:
        sys.exit(subprocess.call([_ray(), *command[1:]]))


def command_line(
    options: Options, folder: Path, excludes: Sequence[str], search: Sequence[str]
) -> list[str]:
    """The words of `ray job submit`."""
    runtime: dict[str, Any] = {"excludes": list(excludes)} if excludes else {}
    if options.install:
        runtime["pip"] = [options.install]
    command = ["ray", "job", "submit", "--address", options.address, "--working-dir", str(folder)]
    if runtime:
        command += ["--runtime-env-json", json.dumps(runtime)]
    return [*command, "--", "slimfront", "search", *search]


def check_search(search: Sequence[str], folder: Path, excludes: Sequence[str]) -> list[str]:
    """The search's arguments as the job is to have them: CONFIG relative to the folder.

    UserError where they are wrong, or name what the job would not find or would lose.
    """
    words = list(search)
    source, config = configuration.parse(words)
    refuse_secrets(config)
    if source not in (configuration.NEUTRAL, *configuration.packaged()):
        path = Path(source).expanduser().resolve()
        if not path.is_relative_to(folder):
            raise UserError(f"{source} lies outside {folder}; set --working-dir to its folder")
        if path not in {file for file, _ in upload.files(folder, excludes)}:
            raise UserError(
                f"{source} would not be uploaded; take it out of .gitignore, .rayignore "
                "or --exclude"
            )
        words[words.index(source)] = str(path.relative_to(folder))
    for key, given in (("model.weights", config.model.weights), ("data.root", config.data.root)):
        if given is not None and is_local(given):
            _check_uploaded(f"--{key}", given, folder, excludes)
    if is_local(config.out) and not os.path.isabs(os.path.expanduser(config.out)):
        raise UserError(
            f"--out {config.out} would be lost with the job's folder; name a URI such as "
            "s3://bucket/run, or the absolute path of a folder that all nodes mount"
        )
    return words


def _check_uploaded(key: str, given: str, folder: Path, excludes: Sequence[str]) -> None:
    """UserError where a file of the folder is named that stays behind."""
    path = Path(given).expanduser().resolve()
    sent = {file.resolve() for file, _ in upload.files(folder, excludes)}
    if not path.is_relative_to(folder):
        if os.path.isabs(os.path.expanduser(given)):
            return  # of a folder that all nodes mount
        raise UserError(
            f"{key} {given} lies outside {folder}; name a URI such as s3://bucket/file, or the "
            "absolute path of what all nodes mount"
        )
    if not any(file == path or file.is_relative_to(path) for file in sent):
        raise UserError(
            f"{key} {given} would not be uploaded; name a URI such as s3://bucket/file, or take "
            "it out of .gitignore or .rayignore (write one, where there is none: *.safetensors "
            "and *.parquet stay behind by default)"
        )


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """What stands before --, whether it is there, and what stands after it."""
    words = list(argv)
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]


def _environment() -> str:
    """Clients of a cluster with token authentication must ask for it too."""
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    given = token or (Path.home() / ".ray" / "auth_token").is_file()
    return "RAY_AUTH_MODE=token " if given else ""


def _ray() -> str:
    """The `ray` that belongs to this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name("ray")
    found = str(beside) if beside.is_file() else shutil.which("ray")
    if found is None:
        raise UserError("there is no ray command; pip install 'slimfront[cluster]'")
    return found
