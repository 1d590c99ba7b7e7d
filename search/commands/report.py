"""`slimfront report`: a run as one page."""

from __future__ import annotations

from collections.abc import Sequence

from search.config import Parser


def run(argv: Sequence[str], prog: str) -> None:
    """Write RUN/report.html and print where it is."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN",
        description=(
            "Write RUN/report.html: one page, opened by any browser without a network, with the "
            "frontier, how the search went, its failures and its settings. Works on a run that "
            "has not ended."
        ),
    )
    parser.add_argument("run", metavar="RUN", help="folder or URI of a search (its --out)")
    found = parser.read(argv)

    from search.report import page

    print(page.write(found["run"]))
