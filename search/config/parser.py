"""Flags and files into dataclasses by jsonargparse; an error is one line that names the remedy."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, Union

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from pruning.errors import UserError
from search.config import notation

CONSENT = ("trust_factory", "model.trust_factory")
"""Two names of one option: a search's key, and the flag that works in every command."""


class Parser(ArgumentParser):
    """jsonargparse's parser that raises UserError, one line, where that one prints its usage."""

    def __init__(self, prog: str, usage: str | None = None, description: str = "") -> None:
        super().__init__(
            prog=prog,
            usage=usage and usage.replace("%", "%%"),
            description=description,
            formatter_class=_Formatter,
            exit_on_error=False,
            allow_abbrev=False,
        )
        self.types: dict[str, Any] = {}

    def add_dataclass(self, cls: type) -> None:
        """One flag for each field of a dataclass, dotted where dataclasses nest."""
        _resolve_annotations(cls)
        self.add_class_arguments(cls, None)
        self.types.update(leaf_types(cls))
        for action in self._actions:
            if any(key.startswith(f"{action.dest}.") for key in self.types):
                action.help = argparse.SUPPRESS  # --section FILE works, and is not worth a line

    def read(self, argv: Sequence[str]) -> Namespace:
        """Parsed flags, dataclasses built; raises UserError."""
        try:
            return self.instantiate(self.parse_args(self._plain(argv)))
        except argparse.ArgumentError as error:
            raise UserError(self._explain(str(error), "--")) from None

    def read_tree(self, tree: Mapping[str, Any], origin: str) -> Namespace:
        """The same for the nested keys of a file; `origin` names it in messages."""
        check_keys(tree, self.types, origin)
        given = {key: value for key, value in tree.items() if value is not None}
        given = notation.plain_tree(given, self.types)
        try:
            return self.instantiate(self.parse_object(given))
        except argparse.ArgumentError as error:
            raise UserError(f"{origin}: {self._explain(str(error), '')}") from None

    def _plain(self, argv: Sequence[str]) -> list[str]:
        """Flags by the names and with the values that jsonargparse knows.

        --max-macs=60% → --max_macs=60%; consent has the same flag in every command.
        """
        found: list[str] = []
        key = ""  # of the flag whose value comes next
        for word in argv:
            if not word.startswith("--"):
                found.append(notation.plain(self.types[key], word) if key in self.types else word)
                key = ""
                continue
            name, equals, value = word.partition("=")
            key = name[2:].replace("-", "_")
            if key in CONSENT and key not in self.types:
                key = next((other for other in CONSENT if other in self.types), key)
            if equals and key in self.types:
                value = notation.plain(self.types[key], value)
            found.append(f"--{key}{equals}{value}")
            key = "" if equals else key
        return found

    def _explain(self, text: str, dashes: str) -> str:
        """jsonargparse's message in one line, in terms of what to write."""
        if match := re.match(r'Parser key "([\w.]+)"', text):
            return dashes + self._explain_value(match[1], text, dashes)
        if match := re.search(r"unrecognized arguments: (\S+)", text):
            return self._explain_unknown(match[1])
        if match := re.search(r"argument -*(\S+): expected one argument", text):
            wanted = f": {describe(self.types[match[1]])}" if match[1] in self.types else ""
            return f"{dashes}{match[1]} needs a value{wanted}"
        if match := re.search(r"arguments are required: (\S+)", text):
            return f"{match[1].upper()} is missing; {self.prog} --help shows how to call it"
        return " ".join(text.split())

    def _explain_value(self, key: str, text: str, dashes: str) -> str:
        if key not in self.types:
            return f"{key} takes no value of its own{closest(key, self.types, dashes, 4)}"
        hint = self.types[key]
        values = re.findall(r"(?:Given|Got) value: (.*)", text)
        value = values[-1].strip() if values else "is wrong"
        choices = map(str, typing.get_args(hint)) if typing.get_origin(hint) is Literal else ()
        near = difflib.get_close_matches(value, choices, 1)
        did_you_mean = f"; did you mean {near[0]}?" if near else ""
        return f"{key} {value}: must be {describe(hint)}{did_you_mean}"

    def _explain_unknown(self, word: str) -> str:
        more = f"{self.prog} --help lists the options"
        if not word.startswith("-"):
            return f"unexpected argument {word!r}; options are written --key value, {more}"
        word = word.split("=")[0]
        plain = [  # those that are no field of a dataclass
            name.removeprefix("--")
            for action in self._actions
            for name in action.option_strings
            if name.startswith("--") and action.help != argparse.SUPPRESS
        ]
        known = dict.fromkeys([*self.types, *plain])
        return f"unknown option {word}{closest(word.lstrip('-'), known, '--')}; {more}"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise argparse.ArgumentError(None, message) from ex


class _Formatter(DefaultHelpFormatter):
    """Help text and default; the texts say better than the types what a value may be."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if not action.option_strings or action.default == argparse.SUPPRESS or action.nargs == 0:
            return action.help or ""
        return f"{action.help or ''} (default: %(default)s)"


def leaf_types(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key → type hint, for every field that is not itself a dataclass."""
    leaves: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            leaves |= leaf_types(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            leaves[prefix + field.name] = hint
    return leaves


def check_keys(tree: Mapping[str, Any], known: Mapping[str, Any], origin: str) -> None:
    """Raise UserError at the first key of a nested mapping that is not known."""
    for key, value in walk(tree, known):
        if _is_section(key, known):
            raise UserError(
                f"{origin}: {key} holds options of its own, and got {value!r}; "
                f"write them below it, indented{closest(key, known)}"
            )
        if key not in known:
            top = ", ".join(dict.fromkeys(name.split(".")[0] for name in known))
            hint = closest(key, known) or f"; at the top there are {top}"
            raise UserError(f"{origin}: unknown key {key}{hint}")


def walk(
    tree: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a mapping that is itself a value (model.args) is not entered."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if not _is_section(key, known):
            yield key, value
        elif isinstance(value, Mapping):
            yield from walk(value, known, f"{key}.")
        elif value is not None:  # a section with nothing in it
            yield key, value


def closest(key: str, known: Iterable[str], dashes: str = "", count: int = 3) -> str:
    """ "; closest: model.name, …": similar keys, else what its section holds, else nothing."""
    names = list(known)
    leaves = {name.split(".")[-1] for name in names}
    near = difflib.get_close_matches(key.split(".")[-1], leaves, 1)
    found = difflib.get_close_matches(key, names, count, 0.75)
    found += [name for name in names if name.split(".")[-1] in near]
    if own := [name for name in names if name.startswith(f"{key}.")]:
        found = own  # a section: what it holds is nearer than what is spelt alike
    section = key.split(".")[0] + "."
    found = found or [name for name in names if name.startswith(section)]
    chosen = list(dict.fromkeys(found))[:count]
    return f"; closest: {', '.join(dashes + name for name in chosen)}" if chosen else ""


def describe(hint: Any) -> str:
    """A type hint in words: int | Literal["auto"] → "a whole number or auto"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        # numbers beside text are there for YAML; the text describes them too
        args = tuple(arg for arg in args if str not in args or arg not in (int, float))
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(str, args))
    if origin is tuple:
        whole = args and set(args) <= {int, Ellipsis}
        return "a list of whole numbers, as in 1,64" if whole else "a list of numbers, as in 1,0.1"
    if origin is dict:
        return 'a mapping, as in {"num_classes": 10}'
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(hint, "null" if hint is type(None) else str(hint))


def _resolve_annotations(cls: Any) -> None:
    """Types in place of the text that `from __future__ import annotations` leaves.

    jsonargparse would do it by running the module's TYPE_CHECKING imports: torch, for a help text.
    """
    hints = typing.get_type_hints(cls)
    cls.__init__.__annotations__.update(hints)
    for hint in hints.values():
        if dataclasses.is_dataclass(hint):
            _resolve_annotations(hint)


def _is_section(key: str, known: Iterable[str]) -> bool:
    return any(name.startswith(f"{key}.") for name in known)
