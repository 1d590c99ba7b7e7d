"""Choosing one point of a frontier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pruning.errors import UserError
from search.cli import main
from search.frontier import select
from search.frontier.select import ChooseOptions
from tests.search.runs import make_rows, make_run

RECORD = {"base_macs": 100_000_000, "base_params": 10_000_000}
# macs [M], params [M], val, test: point 2 is best on test, point 3 on val
ROWS = [(10, 3, 0.80, 0.79), (30, 2, 0.90, 0.89), (50, 4, 0.92, 0.93), (90, 9, 0.94, 0.925)]
POINTS = [
    {
        "rank": rank,
        "macs": int(macs * 1e6),
        "params": int(params * 1e6),
        "score_val": val,
        "score_val_mean": val,
        "score_test_mean": test,
        "latency_ms_b1": 1.0 + rank,
    }
    for rank, (macs, params, val, test) in enumerate(ROWS)
]


def pick(**options: object) -> int:
    return int(select.choose(POINTS, ChooseOptions(**options), RECORD)["rank"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at_most", "rank"),
    [
        ("60M MACs", 2),
        ("60m macs", 2),
        ("30M", 1),
        ("30000000", 1),
        ("50%", 2),
        ("100% MACs", 3),
        ("2M params", 1),
        ("40% parameters", 2),
        ("2.5ms", 1),
        ("2 ms", 1),
    ],
)
def test_at_most_takes_the_best_on_val_within_the_cost(at_most: str, rank: int) -> None:
    assert pick(at_most=at_most) == rank


@pytest.mark.parametrize(("at_least", "rank"), [("93%", 2), ("0.89", 1), ("10 %", 0)])
def test_at_least_takes_the_cheapest_by_test(at_least: str, rank: int) -> None:
    assert pick(at_least=at_least) == rank


def test_both_take_the_best_that_meets_both() -> None:
    assert pick(at_least="89%", at_most="60M") == 2
    assert pick(at_least="89%", at_most="100%") == 3  # best on val: test is no reason to prefer


def test_knee_is_farthest_above_the_line_between_the_ends() -> None:
    # heights above the line: (30-10)/80 = .25 -> .10/.14 - .25 = .46; .5 -> .12/.14 - .5 = .36
    assert pick(knee=True) == 1


def test_an_unfinished_run_is_chosen_from_by_val() -> None:
    points = [{k: p[k] for k in ("rank", "macs", "params", "score_val")} for p in POINTS]
    assert select.choose(points, ChooseOptions(at_least="93%"), RECORD)["rank"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at_most": "5M MACs"}, "at most 5M MACs; the nearest is point 0, 10M MACs, 79.00%"),
        ({"at_most": "1M params"}, "the nearest is point 1, 30M MACs, 89.00%, 2M parameters"),
        ({"at_most": "0.5ms"}, "at most 0.5 ms; the nearest is point 0"),
        ({"at_least": "99%"}, "at least 99.00%; the nearest is point 2, 50M MACs, 93.00%"),
        (
            {"at_least": "93%", "at_most": "30M"},
            "with at most 30M MACs has at least 93.00%; the nearest is point 1",
        ),
        ({"at_most": "60 apples"}, 'write "60M MACs"'),
        ({"at_most": "params"}, 'write "60M MACs"'),
        ({"at_most": "0"}, 'write "60M MACs"'),
        ({"at_least": "93"}, "did you mean 93%?"),
        ({"at_least": "nan"}, "write a share such as 93%"),
        ({"knee": True, "at_most": "60M"}, "leave out"),
    ],
)
def test_refusals_name_the_nearest_or_the_form(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        pick(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_points_two_points_no_latency() -> None:
    with pytest.raises(UserError, match="no points yet"):
        select.choose([], ChooseOptions(knee=True), RECORD)
    with pytest.raises(UserError, match="2 points has no knee"):
        select.choose(POINTS[:2], ChooseOptions(knee=True), RECORD)
    untimed = [{k: v for k, v in p.items() if "latency" not in k} for p in POINTS]
    with pytest.raises(UserError, match="export RUN --latency"):
        select.choose(untimed, ChooseOptions(at_most="2ms"), RECORD)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, make_rows(20), status="running")
    assert main(["frontier", run, "--at-most", "50%", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (point,) = found["points"]
    assert point["macs"] <= 0.5 * found["base_macs"]
    assert main(["frontier", run, "--at-most=50%"]) == 0
    text = capsys.readouterr().out
    assert f"point {point['rank']} on the frontier" in " ".join(text.split())
    assert 'pruning.load("' in text
    assert main(["frontier", run, "--at-least", "99.9%"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "the nearest is point" in captured.err
