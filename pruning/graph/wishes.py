"""What may be cut is the user's to say: layers and groups by name, with glob patterns."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pruning.errors import UserError
from pruning.graph.channel_graph import ChannelGraph

INPUT = ":in"
"""At the end of a pattern: what the layers read stays, too."""


def patterns_of(wishes: str | Iterable[str]) -> list[str]:
    """ "stem.*,layer4.*" or a list of such patterns, as a list."""
    parts = wishes.split(",") if isinstance(wishes, str) else list(wishes)
    return [part.strip() for part in parts if part.strip()]


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern names a layer or group, or a module that it is in."""
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def chosen(patterns: Sequence[str], names: Sequence[str], what: str) -> dict[str, list[str]]:
    """The names that each pattern means; UserError for one that means none."""
    found = {}
    for pattern in patterns:
        bare = pattern.removesuffix(INPUT)
        found[pattern] = [name for name in names if matches(bare, name)]
        if not found[pattern]:
            close = difflib.get_close_matches(bare, names, n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(close)}?" if close else "slimfront profile lists them"
            raise UserError(f"{what}: no layer or group is named {pattern}; {hint}")
    return found


def least_widths(graph: ChannelGraph, wishes: Mapping[str, float]) -> np.ndarray:
    """Channels that groups keep at least, int64 [groups]; 0 where nothing is wished.

    wishes: by pattern a share of the channels (0.5) or a number of them (16). A pattern means a
    group, or the groups that a layer of that name writes.
    """
    least = np.zeros(len(graph.groups), dtype=np.int64)
    names = _names_of_groups(graph)
    found = chosen(list(wishes), list(names), "min_width")
    for pattern, value in wishes.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not value > 0:
            raise UserError(
                f"min_width of {pattern} is {value!r}; give a share as in 0.5, or a number of "
                "channels"
            )
        for name in found[pattern]:
            for g in names[name]:
                channels = graph.groups[g].channels
                wanted = int(np.ceil(value * channels)) if value <= 1 else int(value)
                least[g] = max(least[g], min(wanted, channels))
    return least


def _names_of_groups(graph: ChannelGraph) -> dict[str, list[int]]:
    names: dict[str, list[int]] = {group.name: [i] for i, group in enumerate(graph.groups)}
    for i, writers in enumerate(graph.producers):
        for writer in writers:
            own = names.setdefault(graph.layers[writer].name, [])
            if i not in own:
                own.append(i)
    return names
