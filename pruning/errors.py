"""The one exception a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one line that says what is wrong and what to do about it."""
