"""The one exception a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one line that says what is wrong and what to do about it."""


class MemoryBudgetError(UserError):
    """The memory, or the disk beside it, that may be taken is too small for what was asked for."""
