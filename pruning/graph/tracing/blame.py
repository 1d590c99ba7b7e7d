"""Which groups cannot be cut, where a cut network goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch

from pruning.graph.tracing.benches import Benches
from pruning.graph.tracing.grouping import Grouping
from pruning.graph.tracing.record import Place, Record
from pruning.graph.tracing.verification import CODE, Fault, irregular

SUSPECTS = 12  # tried one by one, before halves are


def guilty(
    grouping: Grouping,
    record: Record,
    fault: Fault,
    failures: Counter[tuple[str, int]],
    benches: Benches,
) -> list[int]:
    """The groups to fix; failures: how often a line of code was blamed so far."""
    found = _blamed(grouping, record, fault, failures)
    if not found and fault.why == CODE and fault.place is not None:
        found = _suspected(grouping, record, fault.place, benches)
    return found or _bisected(grouping, record, benches, fault.why == CODE)


def _blamed(
    grouping: Grouping, record: Record, fault: Fault, failures: Counter[tuple[str, int]]
) -> list[int]:
    """The groups that met where a fault showed; after the second one at a line, all that did."""
    graph = grouping.graph
    if fault.weight is not None:
        layer = next(layer for layer in graph.layers if layer.weight == fault.weight)
        for axis in (layer.read, layer.written):
            labels = record.axes[layer.weight, axis]
            if found := grouping.groups_at(labels):
                return found
        return []
    if fault.place is None:
        return []
    line = fault.place[:2]
    failures[line] += 1
    places = [fault.place]
    if failures[line] > 1:
        places = [place for place in record.seen if place[:2] == line]
    met = [labels.reshape(-1) for place in places for labels in record.seen.get(place, ())]
    return grouping.groups_at(torch.cat(met)) if met else []


def _suspected(grouping: Grouping, record: Record, place: Place, benches: Benches) -> list[int]:
    """The groups without which the code gets further than this place.

    Those that attributes of one name count are tried together, then those that met last before.
    Where a line stops the code again, all groups that met where the first guilty one did.
    """
    graph = grouping.graph
    narrow, full = irregular(graph), graph.full_keep()
    when = {seen: i for i, seen in enumerate(record.seen)}
    found: list[int] = []

    def stop_without(some: list[int]) -> Place | None:
        gone = {*found, *some}
        keep = tuple(full[i] if i in gone else units for i, units in enumerate(narrow))
        return benches.now().stops_at(graph, keep)

    stop: Place | None = place
    while stop is not None and stop in when:
        for some, earlier in _suspects(grouping, record, stop, found):  # noqa: B007  used below
            further = stop_without(some)
            if further is None or when.get(further, -1) > when[stop]:
                break
        else:
            return found
        if earlier is not None and further is not None and further[:2] == stop[:2]:
            places = [seen for seen in record.seen if seen[:2] == earlier[:2]]
            some = sorted({g for seen in places for g in _groups_at(grouping, record, seen)})
            further = stop_without(some)
        found += [g for g in some if g not in found]
        stop = further
    return found


def _suspects(
    grouping: Grouping, record: Record, place: Place, known: list[int]
) -> Iterator[tuple[list[int], Place | None]]:
    """Groups to try together, and where they met."""
    graph = grouping.graph
    for name in dict.fromkeys(each.name for each in graph.attributes):
        units = np.concatenate([each.units for each in graph.attributes if each.name == name])
        inside = np.unique(units[units < graph.units])
        groups = np.unique(np.searchsorted(graph.offsets, inside, "right") - 1).tolist()
        if not set(groups) <= set(known):
            yield groups, None
    for group, earlier in _met_before(grouping, record, place, known):
        yield [group], earlier


def _met_before(
    grouping: Grouping, record: Record, place: Place, known: list[int]
) -> list[tuple[int, Place]]:
    """The last groups that met before a place was passed, and where."""
    before = list(record.seen)
    found: dict[int, Place] = {}
    for earlier in reversed(before[: before.index(place)]):
        for group in _groups_at(grouping, record, earlier):
            if group not in known:
                found.setdefault(group, earlier)
        if len(found) >= SUSPECTS:
            break
    return list(found.items())[:SUSPECTS]


def _groups_at(grouping: Grouping, record: Record, place: Place) -> list[int]:
    met = [labels.reshape(-1) for labels in record.seen[place]]
    return grouping.groups_at(torch.cat(met)) if met else []


def _bisected(grouping: Grouping, record: Record, benches: Benches, code: bool) -> list[int]:
    """The groups without which all others can be cut together, found by halving.

    code: only whether the network's code runs is asked, which takes less.
    """
    graph = grouping.graph
    narrow, full = irregular(graph), graph.full_keep()
    good: set[int] = set()
    guilty: list[int] = []
    waiting = [list(range(len(graph.groups)))]
    while waiting:
        block = waiting.pop()
        tried = good | set(block)
        keep = tuple(narrow[i] if i in tried else full[i] for i in range(len(graph.groups)))
        if code:
            fine = benches.now().stops_at(graph, keep) is None
        else:
            fine = benches.fault(grouping, record, keep) is None
        if fine:
            good = tried
        elif len(block) == 1:
            guilty += block
        else:
            half = len(block) // 2
            waiting += [block[half:], block[:half]]
    return guilty
