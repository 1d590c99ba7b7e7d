"""`slimfront search`: from a configuration to the frontier on disk."""

from __future__ import annotations

from collections.abc import Sequence

from search.config import loader


def run(argv: Sequence[str], prog: str) -> None:
    """Search as [CONFIG] and flags say, then show the frontier."""
    chosen = loader.load(argv, prog)

    from rich.console import Console

    from search import runner
    from search.commands import frontier

    console = Console()
    place = runner.run(chosen, console)
    if frontier.show(place, console)["status"] == "interrupted":
        raise KeyboardInterrupt  # the runner has put everything away; the exit code must tell
    console.print(
        f"{place}/report.html shows all of it; next: slimfront frontier RUN --knee, "
        "slimfront export RUN --format onnx, slimfront compare RUN",
        highlight=False,
        markup=False,
    )
