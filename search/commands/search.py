"""`slimfront search`: from a configuration to the frontier on disk."""

from __future__ import annotations

from collections.abc import Sequence

from search import interrupt, joining
from search.config import loader
from search.storage import record


def run(argv: Sequence[str], prog: str) -> None:
    """Search as [CONFIG] and flags say, then show the frontier."""
    with interrupt.at_once():
        chosen = loader.parse(argv, prog)[1]
        if not record.nothing_to_do(chosen):  # else no cluster is needed
            joining.check(joining.address_of(chosen))  # before what takes seconds to load

        from rich.console import Console

        from search import api
        from search.commands import frontier

    console = Console()
    try:
        place = api.run(chosen, console=console).place
    except api.Interrupted as stop:
        frontier.show(stop.result.place, console)
        raise
    frontier.show(place, console)
    console.print(
        f"{place}/report.html shows all of it; next: slimfront frontier RUN --knee, "
        "slimfront export RUN --format onnx, slimfront compare RUN",
        highlight=False,
        markup=False,
    )
