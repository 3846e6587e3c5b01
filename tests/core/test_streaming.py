"""What the streaming policy does, move by move, and how fast it is, in virtual time (benchmarks/virtual_time)."""

from dataclasses import replace
from statistics import mean

import pytest

from benchmarks.virtual_time import CALM, Acceptance, Cell, Run, Weather, World, acceptance, best_blocking, plain
from dsd_core.decoding.events import Ask, Branch, Draft, Drafted, DraftedToken, Emit, LaneOpened, Send, Tick, VerdictsArrived
from dsd_core.decoding.frames import ComputeTime, Frame, Verdict
from dsd_core.decoding.ids import LaneId
from dsd_core.decoding.lookahead.estimates import CARRIED, DRAFTED, FIRST_FRAMES, Estimates
from dsd_core.decoding.lookahead.guard import Guard
from dsd_core.decoding.lookahead.plan import Plan
from dsd_core.decoding.lookahead.policy import FIRST_DRAFTS, Lookahead, Move, Propose, Verify, View
from dsd_core.decoding.lookahead.sharing import Sharing
from dsd_core.decoding.lookahead.streaming import Experience, Streaming
from dsd_core.decoding.session import Session, SessionConfig

WIDE = Cell(4, 10, 2, 5, 0.25)
DEEP = Cell(4, 10, 2, 5, 2.5)
ALONE = Cell(1, 0, 2, 20, 1)
TIME = ComputeTime(0.020, 0.005)


def run(cell: Cell, p: float, *, candidates: int = 4, tokens: int = 300, weather: Weather = CALM, **options: int) -> Run:
    return World(Streaming(candidates), cell, acceptance(p), weather=weather, **options).run(tokens)


# -- moves -------------------------------------------------------------------------------------------------------------


def begun(
    candidates: int = 4, remaining: int = 20, experience: Experience | None = None
) -> tuple[Session, list[object]]:
    """A session that was asked for something and got its prompt's verdict."""
    session = Session(Streaming(candidates, experience=experience), SessionConfig(200, draft_slack=100))
    session.step(Ask((5, 6, 7), remaining), 0.0)
    session.step(LaneOpened(0), 0.0)
    return session, list(session.step(VerdictsArrived(0, (Verdict(3, 9, 1.0),), TIME), 0.1))


def drafted(request: int, parent: int, *confidences: float) -> Drafted:
    """Candidates 1, 2, 3 ... after a node."""
    branches = (Branch(parent, (DraftedToken(1 + rank, sure),), rank) for rank, sure in enumerate(confidences))
    return Drafted(request, tuple(branches))


def frames(actions: list[object]) -> list[Frame]:
    return [action.frame for action in actions if isinstance(action, Send)]


def test_a_prompt_goes_out_while_the_drafter_reads_it() -> None:
    session = Session(Streaming(4), SessionConfig(200, draft_slack=100))
    session.step(Ask((5, 6, 7), 20), 0.0)
    actions = session.step(LaneOpened(0), 0.0)
    assert [type(action) for action in actions[-2:]] == [Send, Draft]
    assert actions[-1] == Draft(1, parents=(3,), steps=1, candidates=4)


def test_the_tip_is_sent_at_once_though_the_drafter_is_at_work() -> None:
    _, actions = begun()
    [frame] = frames(actions)
    assert [node.token for node in frame.nodes] == [9]


def test_drafting_goes_on_while_verdicts_are_awaited() -> None:
    """The paper's Algorithm 1, line 6: on what was drafted, not on what was verified."""
    session, _ = begun()
    [next_draft] = [action for action in session.step(drafted(1, 3, 0.9), 0.11) if isinstance(action, Draft)]
    assert next_draft.parents == (4,), "the tip"
    actions = session.step(drafted(2, 4, 0.9, 0.05), 0.12)
    assert [action.parents for action in actions if isinstance(action, Draft)] == [(5,)], "the likelier of its children"


def answered(*frame_seconds: float, sharing: Sharing | None = None) -> Experience:
    """Of frames of one node, over links of 80 ms, at four stages alike."""
    learnt = Experience(Estimates(sharing))
    for seconds in frame_seconds:
        learnt.estimates.on_answered(1, 0.08 + seconds, ComputeTime(seconds, seconds / 4), is_usual=True)
    return learnt


def test_frames_are_paced_and_the_session_is_woken_in_time() -> None:
    session, _ = begun(experience=answered(0.020))
    session.step(drafted(1, 3, 0.5), 0.1001)
    actions = session.step(drafted(2, 4, 0.9, 0.05), 0.1002)
    assert not frames(actions), "the slowest stage is at work on the tip for 5 ms"
    assert session.deadline == pytest.approx(0.105, abs=0.001)


def test_until_a_frame_of_drafts_was_answered_four_leave_in_a_round_trip() -> None:
    """What a prompt took says little of small frames: fifty of them were under way before the first one's verdict."""
    session, _ = begun()
    session.step(drafted(1, 3, 0.5), 0.1001)
    assert not frames(session.step(drafted(2, 4, 0.9, 0.05), 0.1002))
    assert session.deadline == pytest.approx(0.1 + 0.1 / FIRST_FRAMES, abs=0.001)


def test_where_frames_lose_to_each_other_one_waits_until_it_is_worth_it() -> None:
    shared = answered(*[0.020] * 8, *[0.030] * 24, sharing=Sharing())
    assert shared.estimates.toll == pytest.approx(CARRIED * 0.005)
    session, _ = begun(experience=shared)
    session.step(drafted(1, 3, 0.5), 0.1001)
    session.step(drafted(2, 4, 0.9), 0.1002)
    assert session.deadline == pytest.approx(0.1 + CARRIED * 0.005 / 0.9, rel=0.05)
    session.step(drafted(3, 5, 0.9), 0.1003)
    assert session.deadline == pytest.approx(0.1 + CARRIED * 0.005 / (0.9 + 0.81), rel=0.05), "two are worth more than one"


def test_a_frame_waits_too_until_it_is_worth_what_it_keeps_the_drafter() -> None:
    """Two draft steps a frame, each of which takes 3 ms longer than what scatter explains; of ten drafts seven come true."""
    learnt = Experience(Estimates(drafting=Sharing()))
    for step in (0.004, 0.008):
        for _ in range(80):
            learnt.estimates.on_drafted(1, step)
            learnt.estimates.on_drafted(1, step)
            learnt.estimates.on_answered(1, 0.1, ComputeTime(0.020, 0.005), is_usual=True)
    session, _ = begun(experience=learnt)
    session.step(drafted(1, 3, 0.5), 0.1001)
    session.step(drafted(2, 4, 0.9), 0.1002)
    assert session.deadline == pytest.approx(0.1 + DRAFTED * 0.7 / 0.3 * 2 * 0.003 / 0.9, rel=0.01)


def test_on_machines_of_their_own_frames_wait_for_nothing_but_the_stage() -> None:
    session, _ = begun(experience=answered(*[0.020] * 8, *[0.030] * 24))
    session.step(drafted(1, 3, 0.5), 0.1001)
    session.step(drafted(2, 4, 0.9), 0.1002)
    assert session.deadline < 0.115


def test_nothing_is_sent_or_drafted_that_cannot_be_of_use() -> None:
    """With two tokens to come after the tip's verdict, a draft may be verified and need not be drafted after."""
    session, _ = begun(remaining=3)
    session.step(drafted(1, 3, 0.9), 0.11)
    actions = session.step(drafted(2, 4, 0.9), 0.2)
    assert [len(frame.nodes) for frame in frames(actions)] == [1]
    assert not [action for action in actions if isinstance(action, Draft)]


def test_one_candidate_makes_a_single_line() -> None:
    session = run(WIDE, 0.7, candidates=1, tokens=100).session
    assert session.counts.recovered > 10
    assert all(len(session.tree[node.parent].children) == 1 for node in session.tree.drafts())


def test_it_says_what_it_goes_by() -> None:
    report = run(DEEP, 0.5).session.report()
    assert report["stage_seconds"] == pytest.approx(0.0075, rel=0.05)
    assert report["node_seconds"] == pytest.approx(0.0025, rel=0.15)
    assert report["round_trip_seconds"] == pytest.approx(0.080, rel=0.05)
    assert report["draft_seconds"] == pytest.approx(0.002, rel=0.05)
    assert 0.4 < report["acceptance"] < 0.6


def test_of_a_prompt_in_several_frames_the_last_ones_time_is_the_last_ones() -> None:
    """Ten tokens in frames of four: the verdict's time is that of two nodes."""
    learnt = Streaming(4)
    session = Session(learnt, SessionConfig(200, draft_slack=100, chunk=4))
    session.step(Ask(tuple(range(10)), 20), 0.0)
    session.step(LaneOpened(0), 0.0)
    session.step(VerdictsArrived(0, (Verdict(10, 9, 1.0),), ComputeTime(0.020, 0.0055)), 0.1)
    other = Experience()
    other.estimates.on_answered(2, 0.1, ComputeTime(0.020, 0.0055), is_usual=False)
    assert learnt.experience.estimates.measurements() == other.estimates.measurements()


@pytest.mark.parametrize(("capacity", "lookahead"), [(7, None), (100, 3)])
def test_what_streaming_had_asked_for_is_sent_as_far_as_there_is_room(capacity: int, lookahead: int | None) -> None:
    """It falls back while the drafter is at work on four candidates of the next tip, and two more positions are reserved, or
    a frame may hold two more."""
    policy = Streaming(4, lookahead)
    session = Session(policy, SessionConfig(capacity, draft_slack=capacity - 7))
    session.step(Ask((5, 6, 7), 4), 0.0)
    session.step(LaneOpened(0), 0.0)
    session.step(VerdictsArrived(0, (Verdict(3, 9, 1.0),), TIME), 0.1)
    session.step(drafted(1, 3, 0.5), 0.1001)
    [draft] = [action for action in session.step(drafted(2, 4, 0.9, 0.05), 0.1002) if isinstance(action, Draft)]
    assert 5 in draft.parents
    policy.experience.guard.engaged = True
    assert not frames(session.step(VerdictsArrived(0, (Verdict(4, 1, 1.0),), TIME), 0.15))
    [frame] = frames(session.step(drafted(3, 5, 0.9, 0.05, 0.03, 0.01), 0.16))
    assert len(frame.nodes) == 1 + 2


def test_in_doubt_a_session_begins_with_a_few_drafts_and_one_frame_at_a_time() -> None:
    session = Session(Streaming(experience=Experience(guard=Guard.in_doubt())), SessionConfig(200, draft_slack=100))
    session.step(Ask((5, 6, 7), 20), 0.0)
    [draft] = [action for action in session.step(LaneOpened(0), 0.0) if isinstance(action, Draft)]
    assert (draft.candidates, draft.steps) == (1, FIRST_DRAFTS)


def test_one_frame_at_a_time_does_not_wait_for_a_drafter_that_has_stalled() -> None:
    learnt = Experience(guard=Guard(engaged=True))
    learnt.estimates.on_drafted(1, 0.002)
    learnt.estimates.on_answered(1, 0.1, TIME, is_usual=False)
    session = Session(Streaming(experience=learnt), SessionConfig(200, draft_slack=100))
    session.step(Ask((5, 6, 7), 20), 0.0)
    [draft] = [action for action in session.step(LaneOpened(0), 0.0) if isinstance(action, Draft)]
    assert draft.candidates == 1
    actions = session.step(VerdictsArrived(0, (Verdict(3, 9, 1.0),), TIME), 0.1)
    assert [len(frame.nodes) for frame in frames(actions)] == [1], "a prompt has been computed and the drafter is silent"
    session.step(drafted(1, 3, 0.9), 0.11)
    actions = session.step(VerdictsArrived(0, (Verdict(4, 8, 1.0),), TIME), 0.2)
    assert [type(action) for action in actions if not isinstance(action, Emit)] == [Draft]
    assert session.deadline < 0.4, "about a round"
    assert frames(session.step(Tick(), session.deadline))


@pytest.mark.parametrize("guard", [Guard(), Guard(engaged=True)], ids=["streaming", "one frame at a time"])
def test_no_frame_holds_more_than_it_may(guard: Guard) -> None:
    sizes: list[int] = []

    class Counting(World):
        def _occupy(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
            sizes.append(len(frame.nodes))
            super()._occupy(lane, number, frame, time)

    cell, sure = Cell(1, 10, 0.2, 10, 0.2), Acceptance([0] * 400, [0.99] * 400, [0.99] * 400)
    Counting(Streaming(lookahead=3, experience=Experience(guard=guard)), cell, sure).run(96)
    assert max(sizes[1:]) == 3, "after the prompt"


# -- speed -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "p", "linear", "tree"),
    [(WIDE, 0.7, 23.7, 16.9), (DEEP, 0.5, 45.0, 36.4), (Cell(1, 10, 2, 5, 2.5), 0.7, 12.6, 12.2)],
    ids=["four stages, memory bound", "four stages, compute bound", "one stage"],
)
def test_it_is_as_fast_as_the_reference_simulation(cell: Cell, p: float, linear: float, tree: float) -> None:
    """Milliseconds a token of another program's controller, which knew what ours has to measure."""
    assert run(cell, p, candidates=1, tokens=800).milliseconds <= 1.1 * linear
    assert run(cell, p, tokens=800).milliseconds <= 1.1 * tree


@pytest.mark.parametrize("p", [0.0001, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("cell", [DEEP, ALONE, Cell(4, 0.2, 2, 5, 2.5), Cell(1, 0, 10, 5, 0.25), Cell(8, 10, 10, 5, 2.5)])
def test_it_is_never_slower_than_plain_or_the_best_blocking(cell: Cell, p: float) -> None:
    best, _ = best_blocking(cell, first(acceptance(p), 300))
    assert run(cell, p).milliseconds <= 1.03 * min(plain(cell), best)


def first(whole: Acceptance, tokens: int) -> Acceptance:
    """What a run of so many tokens meets."""
    return part(whole, 0, tokens + 1)


def part(whole: Acceptance, begin: int, end: int) -> Acceptance:
    return Acceptance(whole.ranks[begin:end], whole.beliefs[begin:end], whole.beliefs_off_the_path)


@pytest.mark.parametrize("p", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("cell", [ALONE, WIDE, Cell(1, 0, 1.3, 6, 0.15), Cell(4, 0.2, 1.3, 2.5, 0.1)])
def test_one_frame_at_a_time_is_faster_than_any_one_length_of_it(cell: Cell, p: float) -> None:
    """A drafter that knows when it is unsure need not draft on."""
    ratios = []
    for begin in range(0, 1900, 190):
        text = part(acceptance(p), begin, begin + 191)
        engaged = World(Streaming(experience=Experience(guard=Guard.in_doubt())), cell, text).run(190)
        ratios.append(engaged.milliseconds / best_blocking(cell, text)[0])
    assert mean(ratios) <= 0.99


def test_a_liar_costs_no_speed() -> None:
    """Sure of everything, right in nothing."""
    liar = Acceptance([0] * 400, [0.99] * 400, [0.99] * 400)
    slowed = World(Streaming(4), DEEP, liar).run(300)
    assert slowed.milliseconds <= 1.03 * plain(DEEP)


@pytest.mark.parametrize("cell", [Cell(4, 0.2, 1.3, 2.5, 0.1), Cell(4, 2, 1.3, 2.5, 0.1), Cell(1, 0.2, 1.3, 6, 0.15)])
def test_nor_does_it_in_a_first_short_answer_of_stages_nearby(cell: Cell) -> None:
    liar = Acceptance([0] * 100, [0.99] * 100, [0.99] * 100)
    slowed = World(Streaming(experience=Experience(guard=Guard.in_doubt())), cell, liar).run(96)
    assert slowed.milliseconds <= 1.04 * plain(cell)


class SharedCore(World):
    """Its stages share a core."""

    def _occupy(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        at_work = sum(stage.busy for stage in self._lanes[lane])
        whole, self._cell = self._cell, replace(self._cell, launch=self._cell.launch * (1 + at_work))
        super()._occupy(lane, number, frame, time)
        self._cell = whole


@pytest.mark.parametrize("candidates", [1, 4])
def test_on_one_machine_fewer_frames_bring_more_tokens(candidates: int) -> None:
    cell = Cell(4, 10, 1, 8, 0.1)
    hasty = SharedCore(Streaming(candidates), cell, acceptance(0.9)).run(600)
    learnt = Experience(Estimates(Sharing()))
    patient = SharedCore(Streaming(candidates, experience=learnt), cell, acceptance(0.9)).run(600)
    assert patient.milliseconds < 0.95 * hasty.milliseconds


class KeptDrafter(World):
    """Its drafter has to wait for each frame that leaves."""

    frames = 0

    def _transmit(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        self.frames += number == 0
        super()._transmit(lane, number, frame, time)

    def _draft(self, draft: Draft) -> None:
        whole, self._cell = self._cell, replace(self._cell, draft=self._cell.draft + 2.5 * self.frames)
        self.frames = 0
        super()._draft(draft)
        self._cell = whole


@pytest.mark.parametrize("candidates", [1, 4])
def test_where_frames_keep_the_drafter_fewer_bring_more_tokens(candidates: int) -> None:
    cell = Cell(4, 10, 1.5, 3, 0.05)
    hasty = KeptDrafter(Streaming(candidates), cell, acceptance(0.9)).run(600)
    learnt = Experience(Estimates(drafting=Sharing()))
    patient = KeptDrafter(Streaming(candidates, experience=learnt), cell, acceptance(0.9)).run(600)
    assert patient.session.counts.frames < 0.8 * hasty.session.counts.frames
    assert patient.milliseconds < 0.98 * hasty.milliseconds


@pytest.mark.parametrize("weather", [Weather(jitter=0.5), Weather(stragglers=0.05)], ids=["jitter", "stragglers"])
def test_it_stays_ahead_in_rough_weather(weather: Weather) -> None:
    usual = 1 + weather.jitter / 2 + 9 * weather.stragglers
    streamed = run(WIDE, 0.7, weather=weather)
    assert streamed.milliseconds < 0.75 * usual * best_blocking(WIDE, acceptance(0.7))[0]


def test_the_guard_keeps_what_a_spoilt_plan_would_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pace, and one node a frame, streaming is a flood and loses; one frame at a time takes its place."""
    monkeypatch.setattr("dsd_core.decoding.lookahead.pace.Pace.free_at", 0.0)
    monkeypatch.setattr("dsd_core.decoding.lookahead.streaming.plan", lambda measured: Plan(threshold=0.01, frame_nodes=1))
    spoilt = run(ALONE, 0.7, candidates=1, tokens=1400)
    assert spoilt.session.report()["guard_engagements"] >= 1
    assert spoilt.milliseconds < plain(ALONE)


class FloodOfSingles(Lookahead):
    """Not one of ours: every draft in a frame of its own, at once."""

    def __init__(self) -> None:
        self._sent: set[int] = set()

    def moves(self, view: View) -> list[Move]:
        tip, drafts = view.tree.tip, list(view.tree.drafts())
        moves: list[Move] = [] if view.tip_sent else [Verify(view.lanes[0].id)]
        unsent = [node.id for node in drafts if node.id not in self._sent]
        self._sent.update(unsent)
        moves += [Verify(view.lanes[0].id, (node,)) for node in unsent]
        leaf = drafts[-1] if drafts else tip
        if not view.drafting and leaf.position < view.deepest and leaf.position - tip.position < 40:
            moves.append(Propose((leaf.id,), 1))
        return moves


def test_stages_drop_stale_work_before_they_compute_it() -> None:
    """In a flood most of what waits at a stage is void by its turn. To serve it would triple the time of a token."""
    flood = World(FloodOfSingles(), WIDE, acceptance(0.7)).run(200)
    assert flood.milliseconds < 30
    assert flood.waste < flood.session.counts.wasted / 200


def test_frames_are_sized_and_paced_so_that_no_flood_comes_about() -> None:
    flood = World(FloodOfSingles(), ALONE, acceptance(0.7)).run(200)
    assert run(ALONE, 0.7, tokens=200).milliseconds < 0.6 * flood.milliseconds


def test_two_lanes_divide_the_launches() -> None:
    cell = Cell(1, 10, 1, 20, 1)
    assert run(cell, 0.7, tokens=600, lanes=2).milliseconds < run(cell, 0.7, tokens=600).milliseconds
