"""Modes side by side: what is run, in which order, and what the figures are."""

import json
from pathlib import Path
from typing import Any

import pytest

from dsd_client import SamplingParams, comparison
from dsd_client.comparison import BLOCKING, LOOKAHEADS, MODES, OFF, Answer, Comparison, Mode, Plan, compare
from dsd_client.comparison_report import ComparisonReport
from dsd_client.results import Stats
from dsd_core.errors import UsageError
from tests.client.conftest import Clients

NO_STATS: dict[str, Any] = dict.fromkeys(Stats.__slots__, 0)


def answer(seconds: float, token_ids: tuple[int, ...], **stats: Any) -> Answer:
    """`seconds` for all tokens but the first."""
    given = Stats(**NO_STATS | {"new_tokens": len(token_ids)} | stats)
    return Answer(seconds, len(token_ids) - 1, token_ids, given)


def test_a_figure_is_the_median_of_repeats_and_weighs_tokens() -> None:
    mode = Mode("a", {})
    repeats = [
        [answer(0.1, (1, 2)), answer(0.3, (1, 2, 3, 4))],
        [answer(0.5, (1, 2)), answer(0.3, (1, 2, 3, 4))],
        [answer(9.0, (1, 2)), answer(0.3, (1, 2, 3, 4))],
    ]
    figure = comparison._figure(mode, repeats, [(1, 2), (1, 2, 3, 4)])
    assert figure.ms_per_token == pytest.approx(200)
    assert (figure.fastest_ms_per_token, figure.slowest_ms_per_token) == (pytest.approx(100), pytest.approx(2325))
    assert figure.same_text


def test_waste_and_acceptance_are_counted_over_all_answers() -> None:
    answers = [answer(1, (1, 2, 3, 4), accepted=3, rejections=1, wasted=6), answer(1, (1, 2, 3, 4), bonus=4, wasted=2)]
    figure = comparison._figure(OFF, [answers], [(1, 2, 3, 4)] * 2)
    assert (figure.acceptance, figure.accepted_per_token, figure.wasted_per_token) == (0.75, 3 / 8, 1.0)


@pytest.mark.parametrize(("text", "same"), [((1, 2, 3, 4), True), ((1, 2), True), ((1, 9), False)])
def test_texts_are_compared_as_far_as_both_go(text: tuple[int, ...], same: bool) -> None:
    assert comparison._figure(OFF, [[answer(1, (1, 2, 3))]], [text]).same_text is same


async def test_every_mode_answers_every_prompt_alike(clients: Clients) -> None:
    asked: list[str] = []
    plan = Plan(["question: how", "the quick", "answer: fox"], max_new_tokens=12, plain_tokens=6, repeats=2, lookahead=3)
    found = await compare(await clients(), plan, asked.append)
    assert list(found.figures) == [mode.name for mode in MODES]
    assert all(figure.same_text for figure in found.figures.values())
    assert found.figures[OFF.name].tokens == 2 * 3 * 6
    assert found.figures[BLOCKING.name].tokens == 2 * 3 * 12
    assert found.figures[BLOCKING.name].lookahead == 3
    assert [line.rsplit(" ", 1)[1] for line in asked[: len(MODES)]] == [mode.name.rsplit(" ", 1)[-1] for mode in MODES]


async def test_modes_sample_with_one_seed(clients: Clients) -> None:
    plan = Plan(["question: how"], max_new_tokens=12, repeats=2, sampling=SamplingParams(temperature=1.0))
    found = await compare(await clients(), plan)
    assert all(figure.same_text for figure in found.figures.values())


async def test_the_best_lookahead_is_found_on_one_half_and_used_on_the_other(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """k = 4 is fastest; after 5 and 6, which are slower, the sweep ends."""
    runs: list[tuple[Any, int | None]] = []

    async def measured(client: object, prompt: Any, mode: Mode, plan: Plan) -> Answer:
        k = mode.options.get("lookahead")
        runs.append((prompt, k))
        return answer(1 + abs((k or 0) - 4), (1, 2))

    monkeypatch.setattr(comparison, "_answer", measured)
    plan = Plan(["a", "b", "c", "d"], [OFF, BLOCKING], repeats=1)
    found = await compare(await clients(), plan)
    assert list(found.sweep) == [k for k in LOOKAHEADS if k <= 6]
    assert found.figures[BLOCKING.name].lookahead == 4
    assert {prompt for prompt, _ in runs[: 2 * len(found.sweep)]} == {"a", "c"}
    assert {prompt for prompt, _ in runs[2 * len(found.sweep) :]} == {"b", "d"}


# -- reports -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def report() -> ComparisonReport:
    found = Comparison(sweep={1: 30.0, 2: 20.0})
    for mode, seconds in ((OFF, 0.4), (Mode(BLOCKING.name, {"lookahead": 2}), 0.1)):
        found.figures[mode.name] = comparison._figure(mode, [[answer(seconds, (1, 2, 3), accepted=2)]], [(1, 2, 3)])
    return ComparisonReport("trial", "A trial", {"N=1": found, "N=4": found}, {"rate": 0.7})


def test_a_report_is_written_as_json_and_as_a_plot(report: ComparisonReport, tmp_path: Path) -> None:
    report.write(tmp_path / "new")
    document = json.loads((tmp_path / "new" / "trial.json").read_text())
    assert document["rate"] == 0.7
    assert document["cells"]["N=4"]["figures"]["blocking"]["ms_per_token"] == pytest.approx(50)
    assert document["cells"]["N=4"]["sweep"] == {"1": 30.0, "2": 20.0}
    assert (tmp_path / "new" / "trial.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_sets_modes_against_each_other(report: ComparisonReport) -> None:
    columns = [list(column.cells) for column in report.table().columns]
    assert columns[0] == ["N=1", "", "N=4", ""]
    assert columns[1][:2] == ["off", "blocking, k = 2"]
    assert columns[2][:2] == ["200.0", "50.0"]
    assert (columns[3][:2], columns[4][:2]) == (["1.00", "4.00"], ["0.25", "1.00"])


def test_a_place_that_cannot_be_written_is_refused(report: ComparisonReport, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        report.write(tmp_path / "file")
