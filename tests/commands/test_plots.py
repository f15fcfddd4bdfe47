"""Plots of the benchmarks: a contestant looks the same in all of them, and like no other, in grey too."""

from __future__ import annotations

from itertools import combinations

import pytest
from benches import cases, plots, styles
from benches.cases import evaluate
from benches.runner import Outcome
from benches.sessions import Session, joined
from benches.work import Setup

# Steps of lightness that an eye tells apart are of 1 to 2.
STEP = 4


def drawn_together() -> dict[str, list[str]]:
    """The contestants of each plot."""
    found = {name: list(cases.BY_NAME[name].contestants()) for name in (*plots.LINES, *plots.BARS)}
    return found | {evaluate.Evaluate.name: [evaluate.OURS, evaluate.MTEBS, evaluate.MINILM]}


def test_every_contestant_that_is_drawn_has_a_colour_of_its_own() -> None:
    for names in drawn_together().values():
        assert len({styles.of(name) for name in names}) == len(names)
    colours = [style.colour for style in styles.STYLES.values()]
    assert len(set(colours)) == len(colours)


def test_a_style_of_nobody_is_not_kept() -> None:
    drawn = {styles.SAME.get(name, name) for names in drawn_together().values() for name in names}
    assert set(styles.STYLES) == drawn


@pytest.mark.parametrize("plot", drawn_together())
def test_contestants_of_one_plot_differ_in_grey(plot: str) -> None:
    for one, other in combinations(map(styles.of, drawn_together()[plot]), 2):
        assert abs(one.lightness - other.lightness) >= STEP, (one, other)
        assert max(one.lightness, other.lightness) < 80, "lost on white paper"
        assert one.marker != other.marker


@pytest.mark.parametrize(
    ("colour", "lightness"), [("#000000", 0), ("#ffffff", 100), ("#808080", 53.6), ("#ff0000", 53.2)]
)
def test_lightness_is_that_of_cie(colour: str, lightness: float) -> None:
    assert styles.Style(colour, "o").lightness == pytest.approx(lightness, abs=0.1)


def evaluated(rows: int, **seconds: float) -> list[Outcome]:
    names = {
        "ours": evaluate.OURS,
        "mtebs": evaluate.MTEBS,
        "our_first": evaluate.FIRST[evaluate.OURS],
        "their_first": evaluate.FIRST[evaluate.MTEBS],
        "uncached": evaluate.MINILM,
    }
    return [
        Outcome(
            "evaluate", Setup(rows), names[name], "document", 1_000 if name == "uncached" else rows, [value]
        )
        for name, value in seconds.items()
    ]


def test_time_of_several_evaluations_is_summed_from_what_was_measured() -> None:
    found = evaluated(2_000, ours=2, mtebs=4, our_first=3, their_first=5, uncached=50)
    runs = evaluate.Runs.of(found)
    assert runs
    # 1,000 texts were embedded; the task has 2,000 documents and 1,000 queries.
    assert [runs.sum(evaluate.MINILM, number) for number in (1, 2)] == [150, 300]
    assert [runs.sum(evaluate.OURS, number) for number in (1, 2, 3)] == [153, 155, 157]
    assert [runs.sum(evaluate.MTEBS, number) for number in (1, 2, 3)] == [155, 159, 163]


def test_what_was_not_measured_is_not_drawn() -> None:
    assert evaluate.Runs.of([]) is None
    assert evaluate.Runs.of(evaluated(2_000, ours=2, mtebs=4, uncached=50)) is None


def test_a_case_that_is_measured_again_replaces_the_earlier_one_and_no_other() -> None:
    warm, fill = (Outcome(case, Setup(10), "dejavec", "text", 10, [1.0]) for case in ("warm", "cold"))
    again = Session({"cores": "4"}, 2, [Outcome("warm", Setup(10), "dejavec", "text", 10, [2.0])])
    assert joined([Session({"cores": "2"}, 2, [warm, fill])], again) == [
        Session({"cores": "2"}, 2, [fill]),
        again,
    ]
    assert joined([Session({"cores": "2"}, 2, [warm])], again) == [again]
    assert Outcome.from_json(warm.to_json()) == warm
