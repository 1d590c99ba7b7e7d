#!/usr/bin/env python3
"""Frontier, ranks and hypervolume of many rows. Budget: a million rows in less than a second."""

from __future__ import annotations

import numpy as np
from benchmark import emit, median_s, table

from search.pareto import front


def main() -> None:
    rows = []
    for count in (10_000, 100_000, 1_000_000):
        rng = np.random.default_rng(0)
        macs = rng.uniform(1e6, 1e8, count)
        accuracy = 0.95 - 0.5 * np.exp(-macs / 2e7) + rng.normal(0, 0.01, count)
        points = np.column_stack([macs, accuracy])
        points[rng.random(count) < 0.01, 1] = np.nan
        reference = front.reference_point(100_000_000, 10)
        front_s = median_s(lambda points=points: front.front(points))
        volume_s = median_s(lambda p=points, r=reference: front.hypervolume(p, r))
        emit("pareto", rows=count, front_s=front_s, hypervolume_s=volume_s)
        rows.append((count, len(front.front(points)), front_s, volume_s))
    table("seconds", ("rows", "on the frontier", "front", "hypervolume"), rows)


if __name__ == "__main__":
    main()
