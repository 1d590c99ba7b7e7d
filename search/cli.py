"""The `slimfront` command: calls the command asked for, and turns errors into exit codes."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from pruning.errors import UserError
from search import interrupt

PROG = "slimfront"


class Command(NamedTuple):
    usage: str
    summary: str


# a command is the module search/commands/NAME.py with run(argv, prog); imported when it is called
COMMANDS = {
    "search": Command(
        "search [CONFIG] [--out RUN] [--trials N] [--key.sub value] …",
        "find the accuracy/MACs frontier (without CONFIG, model or data: the digits demo, minutes)",
    ),
    "profile": Command(
        "profile MODEL_OR_CONFIG [--input 3x224x224] [--max-macs 60%] [--json]",
        "show a network's channel groups, fixed layers and reachable MACs",
    ),
    "frontier": Command(
        "frontier RUN [--at-most 50%] [--at-least 93%] [--knee] [--json]",
        "show the frontier that a run has found, or choose one point of it",
    ),
    "compare": Command(
        "compare RUN [--baselines peel|all] [--budgets 70%,50%,30%] [--json]",
        "set one-shot pruning beside the frontier, trained alike",
    ),
    "prune": Command(
        "prune [CONFIG] --macs 50% [--method gain-curve] [--to FILE] [--key.sub value] …",
        "prune once to a MAC target: one network, no search",
    ),
    "report": Command("report RUN", "write RUN/report.html: the run as one page"),
    "watch": Command(
        "watch RUN [--every 5] [--once] [--json] [--serve PORT]",
        "follow a search from any machine that reads its folder, in a terminal or as a page",
    ),
    "export": Command(
        "export RUN [--format onnx] [--point N] [--latency] [--json]",
        "write points as ONNX or exported programs, tables, latencies, dashboards' files",
    ),
    "data": Command(
        "data pack SOURCE TARGET [--size 256] [--quality 90]",
        "encode photographs once more, small, as Parquet files that train two to four times faster",
    ),
    "submit": Command(
        "submit [--address URL] [--run] -- [CONFIG] --out RUN …",
        "run a search as a job on a Ray cluster (prints the line and what it uploads)",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for bad input, 128 + signal when interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with interrupt.remembered():
            _dispatch(args)
        sys.stdout.flush()
        return 0
    except UserError as error:
        _say(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt:
        return _interrupted(args)
    except BrokenPipeError:
        # the reader (head, less) has all it wanted; the interpreter must not flush into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as end:  # --help and --version of argparse
        return end.code if isinstance(end.code, int) else 0
    except Exception:
        if not interrupt.came():
            raise
        return _interrupted(args)  # by a signal that Ray's processes had too


def _interrupted(args: Sequence[str]) -> int:
    kept = "; finished trials are kept, and the same command again goes on from them"
    _say("interrupted" + (kept if args[:1] == ["search"] else ""))
    return interrupt.code()


def entry() -> None:
    """The process of a command: `main`, and its end."""
    interrupt.own_process()
    status = main()
    if status > 128:
        interrupt.leave(status)
    sys.exit(status)


def help_text() -> str:
    """What `slimfront --help` prints."""
    lines = [
        f"usage: {PROG} COMMAND …",
        "",
        "Find the accuracy/MACs frontier of the slim versions of a trained CNN.",
        "",
    ]
    for command in COMMANDS.values():
        lines += [f"  {PROG} {command.usage}", f"      {command.summary}"]
    lines += [
        "",
        f"{PROG} COMMAND --help lists every option with its unit and default; {PROG} --version.",
        "Exit code: 0 done, 2 bad input (one line says what to do), 130 interrupted",
        "(143 by SIGTERM, 129 by SIGHUP).",
    ]
    return "\n".join(lines)


def _dispatch(args: list[str]) -> None:
    name = args[0] if args else "--help"
    if name in ("-h", "--help", "help"):
        print(help_text())
    elif name in ("-V", "--version"):
        print(f"{PROG} {_version()}")
    elif name in COMMANDS:
        with interrupt.at_once():
            command = importlib.import_module(f"search.commands.{name}")
        command.run(args[1:], f"{PROG} {name}")
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"unknown command {name!r}; {hint}commands: {', '.join(COMMANDS)}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PROG)
    except PackageNotFoundError:
        return "(not installed)"


def _say(line: str) -> None:
    print(f"{PROG}: {line}", file=sys.stderr)
