"""`slimfront search`: from a configuration to the frontier on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.config import loader

if TYPE_CHECKING:
    from rich.console import Console

    from search.config import Config


def run(argv: Sequence[str], prog: str) -> None:
    """Search as [CONFIG] and flags say, then show the frontier."""
    chosen = loader.absolute(loader.parse(argv, prog)[1])

    from rich.console import Console

    from search.commands import frontier
    from search.storage import record

    console = Console()
    place = chosen.out
    if record.nothing_to_do(chosen):  # neither Ray nor a base model for that, nor PyTorch
        console.print(f"{place} is complete; nothing is left to do", highlight=False, markup=False)
    else:
        place = _search(chosen, console)
    if frontier.show(place, console)["status"] == "interrupted":
        raise KeyboardInterrupt  # the runner has put everything away; the exit code must tell
    console.print(
        f"{place}/report.html shows all of it; next: slimfront frontier RUN --knee, "
        "slimfront export RUN --format onnx, slimfront compare RUN",
        highlight=False,
        markup=False,
    )


def _search(chosen: Config, console: Console) -> str:
    loader.validate(chosen)

    from search import runner
    from search.backend import ray_log

    with ray_log.kept(chosen.out, console):
        return runner.run(chosen, console)
