"""`python -m search` is `slimfront`."""

from __future__ import annotations

from search.cli import entry

if __name__ == "__main__":
    entry()
