"""Seeded damage: values nobody expects, trees with keys removed, retyped, made huge or nested."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator

WORDS = (
    "",
    " ",
    "x",
    "ä→\u202e",
    "-1",
    "0",
    "1",
    "0.5",
    "50%",
    "101%",
    "-5%",
    "60M",
    "1e999",
    "nan",
)
WORDS += (
    "nan",
    "inf",
    "null",
    "true",
    "off",
    "[",
    "[]",
    "{}",
    "[1,64]",
    "1,64",
    "{a: 1}",
    "{{",
    "9" * 30,
)
WORDS += ("../../x", "/dev/null", "/proc/self/mem", "~nobody/x", "a\x07b", "%s %d {0}", "'\"`$(id)")
WORDS += ("torchvision:nothing", "timm:nothing", "os:system", "subprocess:run", "digits", "all")
WORDS += ("s3://KEY:SECRET@bucket/run", "ftp://x/y", "x" * 5000, "gain-curve,", "last:-1", "split:")


def deep(depth: int) -> Any:
    tree: Any = 1
    for _ in range(depth):
        tree = [tree]
    return tree


def value(rng: Rng) -> Any:
    """A value of any type that JSON knows, and NaN."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: word(rng),
        lambda: int(rng.integers(-3, 300)),
        lambda: 10 ** int(rng.integers(5, 40)),
        lambda: float(rng.normal() * 10.0 ** rng.integers(-3, 9)),
        lambda: float("nan"),
        lambda: -float("inf"),
        lambda: None,
        lambda: bool(rng.integers(2)),
        lambda: [word(rng), 1, None],
        lambda: {word(rng): word(rng)},
        lambda: [],
        lambda: {},
        lambda: deep(int(rng.integers(2, 300))),
        lambda: "y" * int(rng.integers(1, 20_000)),
    )
    return makers[rng.integers(len(makers))]()


def word(rng: Rng) -> str:
    return str(WORDS[rng.integers(len(WORDS))])


def pick(rng: Rng, items: Any) -> Any:
    known = list(items)
    return known[rng.integers(len(known))]


def tree(rng: Rng, whole: Any, times: int | None = None) -> Any:
    """A copy of nested dicts and lists, damaged at one to three places."""
    damaged = copy.deepcopy(whole)
    for _ in range(times or int(rng.integers(1, 4))):
        places = _places(damaged)
        if not places:
            return value(rng)
        box, key = places[rng.integers(len(places))]
        what = rng.integers(5)
        if what == 0:
            del box[key]
        elif what == 1 and isinstance(box, dict):
            box[word(rng)] = box.pop(key)
        elif what == 2 and isinstance(box, dict):
            box[word(rng)] = value(rng)
        else:
            box[key] = value(rng)
    return damaged


def data(rng: Rng, whole: bytes) -> bytes:
    """Bytes cut short, with some of them changed, doubled or replaced by others."""
    what, found = rng.integers(6), bytearray(whole)
    at = int(rng.integers(max(1, len(found))))
    if what == 0:
        return bytes(found[:at])
    if what == 1:
        return b""
    if what == 2:
        return bytes(found + found)
    if what == 3:
        return rng.bytes(int(rng.integers(200)))
    for place in rng.integers(0, max(1, len(found)), int(rng.integers(1, 9))):
        if found:
            found[place] = int(rng.integers(256))
    return bytes(found)


def json_file(rng: Rng, whole: bytes) -> bytes:
    """A JSON file with its tree damaged, or its bytes; one that is damaged already, its bytes."""
    try:
        found = json.loads(whole)
    except (ValueError, RecursionError):
        return data(rng, whole)
    if rng.random() < 0.2:
        return data(rng, whole)
    return json.dumps(tree(rng, found)).encode("utf-8", "replace")


def safetensors_file(rng: Rng, whole: bytes) -> bytes:
    """A safetensors file with its header damaged, its metadata's JSON, or its bytes."""
    length = int.from_bytes(whole[:8], "little")
    try:
        header = json.loads(whole[8 : 8 + length])
        about = header["__metadata__"]
        json.loads(about["info"])
    except (ValueError, RecursionError, TypeError, KeyError):  # damaged already
        return data(rng, whole)
    if rng.random() < 0.2:
        return data(rng, whole)
    if rng.random() < 0.7:
        about["info"] = json.dumps(tree(rng, json.loads(about["info"])))
    elif about and rng.random() < 0.3:
        about[pick(rng, about)] = word(rng)
    else:
        header = tree(rng, header)
    text = json.dumps(header).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def _places(box: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    if depth > 6 or not isinstance(box, dict | list):
        return []
    keys = list(box) if isinstance(box, dict) else list(range(len(box)))[:20]
    found = [(box, key) for key in keys]
    for key in keys:
        found += _places(box[key], depth + 1)
    return found
