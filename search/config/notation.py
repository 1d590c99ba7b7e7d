"""One notation everywhere: a share is 50% or 0.5, a list 1,64 or [1,64], on flags and in files."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Union

from pruning.errors import UserError
from search.config import quantity

_PER_CENT = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*%")


def plain(hint: Any, value: Any) -> Any:
    """A value as its type has it: "10%" for a number is 0.1, "1,64" for a list of numbers [1,64].

    Of a flag (text) it stays text; whatever is of no such type comes back as it is.
    """
    kinds = _kinds(hint)
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return _numbers(value)
    if float in kinds and str not in kinds and isinstance(value, str):
        return _number(value)
    if kinds == {str} and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ",".join(value)  # [peel, cap] in a file
    return value


def plain_tree(tree: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Any:
    """The same for the nested keys of a file; `known`: type hints by dotted key."""
    found = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in known:
            found[name] = plain_tree(value, known, f"{key}.")
        else:
            found[name] = plain(known[key], value) if key in known else value
    return found


def words(text: str) -> list[str]:
    """The entries of a list: "a,b", "[a, b]" or one alone."""
    inside = text.strip().removeprefix("[").removesuffix("]")
    return [word.strip().strip("'\"") for word in inside.split(",") if word.strip()]


def amounts(text: str, name: str) -> list[quantity.Quantity]:
    """A list of amounts or shares: "70%,50%", "[0.7,0.5]", "60M"; UserError otherwise."""
    found = [quantity.parse(word, name) for word in words(text)]
    if not found:
        raise UserError(f"{name} is empty; write amounts such as 70%,50%,30%")
    return found


def share(text: str, name: str, example: str = "10%") -> float:
    """A share above 0 and up to 1: "10%" or "0.1"; UserError otherwise."""
    wanted = f"write a share such as {example}"
    try:
        value = float(_number(text.strip()))
    except ValueError:
        raise UserError(f"{name} {text!r} is no share; {wanted}") from None
    if 1 < value <= 100:
        raise UserError(f"{name} {text}: did you mean {value:g}%?")
    if not 0 < value <= 1:
        raise UserError(f"{name} {text!r} is no share; {wanted}")
    return value


def _kinds(hint: Any) -> set[Any]:
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return set(typing.get_args(hint)) - {type(None)} if union else {hint}


def _number(text: str) -> str:
    """ "10%" → "0.1"; what is no share stays."""
    match = _PER_CENT.fullmatch(text.strip())
    return f"{float(match[1]) / 100:.12g}" if match else text


def _numbers(value: Any) -> Any:
    if isinstance(value, str) and value.strip() not in ("null", ""):
        return f"[{','.join(_number(word) for word in words(value))}]"
    if isinstance(value, list):
        return [float(_number(v)) if _is_share(v) else v for v in value]
    return value


def _is_share(value: Any) -> bool:
    return isinstance(value, str) and _PER_CENT.fullmatch(value.strip()) is not None
