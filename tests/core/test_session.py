"""What a session promises besides the text: frames, nodes, origins, counts, and what it refuses."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest

from dsd_core.decoding.choice.acceptance import Adaptive
from dsd_core.decoding.events import (
    Ask,
    Branch,
    CloseLane,
    CommittedToken,
    Draft,
    Drafted,
    DraftedToken,
    Emit,
    Finish,
    FinishReason,
    LaneDraining,
    LaneLost,
    LaneOpened,
    OpenLane,
    Origin,
    Send,
    Stop,
    Tick,
    VerdictsArrived,
)
from dsd_core.decoding.frames import NO_TIME, Candidate, Frame, FrameNode, Verdict
from dsd_core.decoding.ids import DraftId, LaneId, NodeId, TokenId
from dsd_core.decoding.lookahead.policy import Blocking, FixedLength, Lookahead, Move, Plain, Propose, Verify, View
from dsd_core.decoding.session import Session, SessionConfig
from dsd_core.errors import PromptTooLong, ProtocolError, UsageError
from tests.core.simulation import CALM, Answer, ToyDrafter, ToyTarget, Weather, World

PROMPT = (5, 6, 7)
ROUGH = Weather(jitter=0.05, scattered=True, duplication=0.3, late_draft=0.3)


def blocking(k: int, *, capacity: int = 200, chunk: int = 512) -> Session:
    return Session(Blocking(FixedLength(k)), SessionConfig(capacity, chunk=chunk, round_seconds=10))


def plain(capacity: int = 200) -> Session:
    return Session(Plain(), SessionConfig(capacity, round_seconds=10))


def on_a_lane(session: Session) -> Session:
    assert session.step(LaneOpened(1), 0.0) == []
    return session


def converse(session: Session, acceptance: float, tokens: int, *, weather: Weather = CALM, seed: int = 1) -> Answer:
    target = ToyTarget(seed)
    return World(session, target, ToyDrafter(target, acceptance), weather=weather, seed=seed).ask(PROMPT, tokens)


def promised_frames(answer: Answer, k: int, seed: int, acceptance: float) -> list[int]:
    """Nodes of each frame after the prompt's, by replaying where the drafter is right.

    A frame yields its leading right drafts and one token more. Drafts made while the prompt was out are used if right.
    """
    text, wanted = answer.text, answer.ask.max_new_tokens
    drafter = ToyDrafter(ToyTarget(seed), acceptance)
    right = [drafter.is_right((*PROMPT, *text[:place])) for place in range(wanted)]
    sizes, done = [], 1
    in_hand = min(k, wanted - 1) - 1 if right[0] else 0
    while done < wanted:
        drafts = in_hand if in_hand > 0 else min(k, wanted - done - 1)
        run = next((place for place in range(drafts) if not right[done + place]), drafts)
        sizes.append(1 + drafts)
        done, in_hand = done + run + 1, 0
    return sizes


# -- economy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weather", [CALM, ROUGH], ids=["calm", "rough"])
@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("k", [0, 1, 2, 3, 5, 8])
def test_not_one_frame_more_than_promised(k: int, acceptance: float, weather: Weather) -> None:
    for seed in range(4):
        for tokens in (1, 2, 3, 17, 40):
            session = blocking(k)
            answer = converse(session, acceptance, tokens, weather=weather, seed=seed)
            sizes = promised_frames(answer, k, seed, acceptance)
            assert [len(frame.nodes) for frame in answer.frames] == [len(PROMPT), *sizes]
            assert session.counts.frames == len(sizes)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
@pytest.mark.parametrize("tokens", [2, 9, 30, 36])
def test_a_perfect_drafter_needs_a_frame_for_every_k_plus_1_tokens(k: int, tokens: int) -> None:
    session = blocking(k)
    answer = converse(session, 1.0, tokens)
    assert session.counts.frames == -(-tokens // (k + 1))
    assert Origin.RECOVERED not in answer.origins
    assert session.counts.wasted == 0


@pytest.mark.parametrize("k", [1, 4])
def test_a_wrong_drafter_costs_no_more_frames_than_plain_decoding(k: int) -> None:
    session = blocking(k)
    answer = converse(session, 0.0, 20)
    assert len(answer.frames) == 20, "the prompt's and 19 more"
    assert session.counts.accepted == 0


def test_plain_decoding_sends_each_token_once() -> None:
    session = plain()
    answer = converse(session, 1.0, 20)
    assert [len(frame.nodes) for frame in answer.frames] == [3] + [1] * 19
    assert answer.origins == [Origin.BONUS] * 20
    assert session.counts.drafted == session.counts.wasted == 0


@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_blocking_frame_is_the_tip_and_k_drafts(k: int) -> None:
    answer = converse(blocking(k), 0.0, 40)
    full = answer.frames[1 : -k - 1]
    assert {len(frame.nodes) for frame in full} == {k + 1}
    assert all(node.wants_verdict for frame in full for node in frame.nodes)
    assert all(frame.keep == frame.nodes[0].id for frame in full)


@pytest.mark.parametrize("chunk", [1, 4, 512])
def test_a_prompt_is_sent_once_and_only_its_end_wants_a_verdict(chunk: int) -> None:
    session = blocking(2, chunk=chunk)
    target = ToyTarget(1)
    prompt = tuple(range(10))
    answer = World(session, target, ToyDrafter(target, 1.0)).ask(prompt, 1)
    nodes = [node for frame in answer.frames for node in frame.nodes]
    assert tuple(node.token for node in nodes) == prompt
    assert [node.wants_verdict for node in nodes] == [False] * 9 + [True]
    assert max(len(frame.nodes) for frame in answer.frames) == min(chunk, 10)
    assert session.counts.frames == 0


@pytest.mark.parametrize("length", [1, 2])
def test_a_prompt_is_not_counted_among_the_frames_however_short(length: int) -> None:
    session = plain()
    target = ToyTarget(1)
    World(session, target, ToyDrafter(target, 0)).ask(PROMPT[:length], 5)
    assert session.counts.frames == 4


def test_a_chat_turn_sends_only_what_is_new() -> None:
    session = plain()
    target = ToyTarget(3)
    world = World(session, target, ToyDrafter(target, 0))
    first = world.ask(PROMPT, 6)
    second = world.ask((*PROMPT, *first.text, 1, 2), 1)
    assert [node.token for frame in second.frames for node in frame.nodes] == [first.text[-1], 1, 2]
    shorter = world.ask((*PROMPT, *first.text[:2], 9), 1)
    assert [node.token for frame in shorter.frames for node in frame.nodes] == [9]
    again = world.ask((*PROMPT, *first.text[:2], 9), 1)
    assert [node.token for frame in again.frames for node in frame.nodes] == [9], "its verdict is wanted again"


def test_waste_is_what_was_sent_and_not_committed() -> None:
    for seed in range(5):
        session = blocking(4)
        answer = converse(session, 0.6, 40, seed=seed)
        drafts = sum(len(frame.nodes) - 1 for frame in answer.frames[1:])
        committed = sum(origin is Origin.ACCEPTED for origin in answer.origins)
        # A draft accepted by the prompt's own verdict travels as a tip.
        assert session.counts.wasted == drafts - committed + (answer.origins[0] is Origin.ACCEPTED)


# -- verdicts, drafts and lanes ----------------------------------------------------------------------------------------


def verdicts(*choices: tuple[int, int], margin: float = 1.0, lane: int = 1) -> VerdictsArrived:
    return VerdictsArrived(lane, tuple(Verdict(node, choice, margin) for node, choice in choices))


def drafted(request: int, parent: int, *tokens: int, rank: int = 0) -> Drafted:
    return Drafted(request, (Branch(parent, tuple(DraftedToken(token, 0.5) for token in tokens), rank),))


def committed(actions: list) -> list[tuple[int, Origin]]:
    tokens: list[CommittedToken] = [token for action in actions if isinstance(action, Emit) for token in action.tokens]
    return [(token.token, token.origin) for token in tokens]


def a_round_of_three() -> Session:
    """Prompt 5 6 7, token 8 committed and under way with drafts 1 2 3: the lane's nodes 4 to 7."""
    session = on_a_lane(blocking(3))
    session.step(Ask(PROMPT, 20), 0.0)
    session.step(drafted(1, 3), 0.1)
    session.step(verdicts((3, 8)), 0.2)
    [send] = session.step(drafted(2, 4, 1, 2, 3), 0.3)
    assert send == Send(1, Frame((FrameNode(4, 3, 8), FrameNode(5, 4, 1), FrameNode(6, 5, 2), FrameNode(7, 6, 3)), keep=4))
    return session


def test_verdicts_commit_in_order_whatever_order_they_come_in() -> None:
    session = a_round_of_three()
    assert committed(session.step(verdicts((6, 3), (7, 9)), 1.0)) == []
    assert committed(session.step(verdicts((5, 2)), 1.1)) == []
    assert committed(session.step(verdicts((4, 1)), 1.2)) == [
        (1, Origin.ACCEPTED),
        (2, Origin.ACCEPTED),
        (3, Origin.ACCEPTED),
        (9, Origin.BONUS),
    ]


def test_the_first_verdict_for_a_node_stands() -> None:
    session = a_round_of_three()
    session.step(verdicts((5, 2)), 1.0)
    session.step(verdicts((5, 28)), 1.0)
    assert committed(session.step(verdicts((4, 1)), 1.1)) == [(1, Origin.ACCEPTED), (2, Origin.ACCEPTED)]


def test_a_rejection_makes_the_verdicts_below_it_void() -> None:
    session = a_round_of_three()
    assert committed(session.step(verdicts((4, 9), (5, 2), (6, 3), (7, 4)), 1.0)) == [(9, Origin.RECOVERED)]
    assert session.step(verdicts((5, 2), (7, 4)), 1.1) == []


class TwoCandidates(Blocking):
    """Blocking with two branches; not one of ours."""

    def moves(self, view: View) -> Sequence[Move]:
        return [replace(move, candidates=2) if isinstance(move, Propose) else move for move in super().moves(view)]


def test_the_second_candidate_is_a_recovered_token() -> None:
    session = on_a_lane(Session(TwoCandidates(FixedLength(2)), SessionConfig(200)))
    session.step(Ask(PROMPT, 20), 0.0)
    two = (Branch(3, (DraftedToken(1, 0.6),)), Branch(3, (DraftedToken(2, 0.3), DraftedToken(4, 0.9)), rank=1))
    session.step(Drafted(1, two), 0.1)
    actions = session.step(verdicts((3, 2)), 0.2)
    assert committed(actions) == [(2, Origin.RECOVERED)]
    assert [node.token for node in actions[-1].frame.nodes] == [2, 4], "what hangs off it is still good"


def test_more_branches_than_asked_for_or_elsewhere_are_not_taken() -> None:
    session = on_a_lane(blocking(2))
    session.step(Ask(PROMPT, 20), 0.0)
    branches = [(3, 0, 1), (3, 1, 2), (2, 0, 9)]
    session.step(Drafted(1, tuple(Branch(parent, (DraftedToken(token, 0.5),), rank) for parent, rank, token in branches)), 0.1)
    assert [node.token for node in session.tree.drafts()] == [1]
    assert session.counts.drafted == 1


def test_a_verdict_for_what_was_never_sent_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="node 8"):
        a_round_of_three().step(verdicts((8, 1)), 1.0)


def test_a_late_draft_is_compared_with_what_was_decided_meanwhile() -> None:
    session = on_a_lane(blocking(3))
    session.step(Ask(PROMPT, 20), 0.0)
    assert committed(session.step(verdicts((3, 8)), 0.1)) == [(8, Origin.BONUS)]
    [send] = session.step(drafted(1, 3, 8, 1, 2), 0.2)
    assert [(node.parent, node.token) for node in send.frame.nodes] == [(3, 8), (4, 1), (5, 2)]


def test_a_late_draft_that_went_elsewhere_is_dropped_and_another_made() -> None:
    session = on_a_lane(blocking(3))
    session.step(Ask(PROMPT, 20), 0.0)
    session.step(verdicts((3, 8)), 0.1)
    assert session.step(drafted(1, 3, 9, 1, 2), 0.2) == [Draft(2, parents=(4,), steps=3)]
    assert session.counts.drafted == 0


def test_a_draft_nobody_waits_for_is_dropped() -> None:
    session = a_round_of_three()
    assert session.step(drafted(1, 4, 9, 9), 0.5) == []
    assert session.step(drafted(7, 4, 9, 9), 0.5) == []
    assert session.counts.drafted == 3


def test_the_answer_to_an_older_request_is_not_taken_for_that_to_the_newer() -> None:
    session = on_a_lane(blocking(3))
    session.step(Ask(PROMPT, 20), 0.0)
    session.step(Stop(FinishReason.CANCELLED), 0.1)
    session.step(Ask((*PROMPT, 9), 20), 0.2)
    session.step(verdicts((4, 8)), 0.3)
    assert session.step(drafted(1, 3, 1, 2, 3), 0.4) == []
    [send] = session.step(drafted(2, 4, 8, 1, 2), 0.5)
    assert [node.token for node in send.frame.nodes] == [8, 1, 2]


def test_a_lane_that_does_not_answer_is_replaced_once_and_all_sent_again() -> None:
    session = a_round_of_three()
    assert session.deadline == pytest.approx(10.3)
    assert session.step(Tick(), 10.2) == []
    assert session.step(Tick(), 10.3) == [OpenLane()]
    assert session.deadline is None
    assert session.step(Tick(), 30.0) == []
    [send] = session.step(LaneOpened(2), 31.0)
    assert send.lane == 2
    assert [node.token for node in send.frame.nodes] == [5, 6, 7, 8, 1, 2, 3]
    assert [node.wants_verdict for node in send.frame.nodes] == [False] * 3 + [True] * 4
    assert session.deadline == pytest.approx(41.0)


def test_the_deadline_stands_while_any_verdict_that_is_needed_is_missing() -> None:
    """The last verdict of a frame has come and the first has not: nothing else would ever wake the session."""
    session = a_round_of_three()
    for now, draft in ((1.0, 5), (5.0, 6), (9.0, 7)):
        assert session.step(verdicts((draft, 9)), now) == []
        assert session.deadline == pytest.approx(10.3), "to speak of drafts alone keeps no lane"
    assert session.step(Tick(), 10.3) == [OpenLane()]


def test_nothing_is_awaited_while_the_drafter_works() -> None:
    session = a_round_of_three()
    session.step(verdicts((4, 9), (5, 2), (6, 3), (7, 4)), 1.0)
    assert session.deadline is None


def test_a_lane_that_was_only_late_serves_on_and_the_other_is_not_kept() -> None:
    session = a_round_of_three()
    assert session.step(Tick(), 10.3) == [OpenLane()]
    assert committed(session.step(verdicts((4, 1)), 10.4)) == [(1, Origin.ACCEPTED)]
    assert session.step(LaneOpened(2), 11.0) == [CloseLane(2)]


def test_a_lane_is_left_when_another_has_answered_in_its_place() -> None:
    session = a_round_of_three()
    session.step(Tick(), 10.3)
    session.step(LaneOpened(2), 11.0)
    actions = session.step(verdicts((4, 1), lane=2), 11.1)
    assert committed(actions) == [(1, Origin.ACCEPTED)]
    assert CloseLane(1) in actions
    assert session.step(verdicts((5, 9), lane=1), 11.2) == [], "what it says now is not heard"


def test_a_lost_lane_is_replaced_and_what_it_still_says_ignored() -> None:
    session = a_round_of_three()
    assert session.step(LaneLost(1), 0.4) == [OpenLane()]
    assert session.step(verdicts((4, 1)), 0.5) == []
    assert session.deadline is None
    [send] = session.step(LaneOpened(2), 0.6)
    assert [node.token for node in send.frame.nodes] == [5, 6, 7, 8, 1, 2, 3]


def test_with_no_lane_at_all_the_drafter_is_left_alone() -> None:
    session = blocking(3)
    assert session.step(Ask(PROMPT, 20), 0.0) == [OpenLane()]
    assert session.step(Tick(), 100.0) == []
    assert [type(action) for action in session.step(LaneOpened(1), 101.0)] == [Send, Draft]


# -- several lanes -----------------------------------------------------------------------------------------------------


def two_lanes(*, feed: int = 64, **config: int) -> Session:
    """Lane 1 leads and has answered for the prompt; lane 2 was fed it, and has answered too."""
    session = Session(Plain(), SessionConfig(200, round_seconds=10, feed=feed, **config))
    assert session.step(LaneOpened(1), 0.0) == []
    assert OpenLane() in session.step(Ask(PROMPT, 100), 0.0)
    [fed] = session.step(LaneOpened(2), 0.0)
    assert fed == Send(2, Frame((FrameNode(1, 0, 5, False), FrameNode(2, 1, 6, False), FrameNode(3, 2, 7)), keep=3))
    session.step(verdicts((3, 8)), 0.1)
    assert session.step(verdicts((3, 8), lane=2), 0.2) == []
    return session


def play(session: Session, tokens: int) -> list:
    """Lane 1 answers so many times."""
    return [action for round_ in range(tokens) for action in session.step(verdicts((4 + round_, 9)), 0.2 + round_ / 10)]


def test_a_lane_that_stands_by_is_fed_in_batches_of_which_the_last_wants_a_verdict() -> None:
    actions = play(two_lanes(standby=1), 34)
    fed = [action.frame for action in actions if isinstance(action, Send) and action.lane == 2]
    assert [len(frame.nodes) for frame in fed] == [16], "the next waits for the answer"
    assert [node.wants_verdict for node in fed[0].nodes] == [False] * 15 + [True]


def test_a_long_text_is_fed_in_pieces() -> None:
    session = two_lanes(standby=1, feed=4)
    [fed] = [action for action in play(session, 15) if isinstance(action, Send) and action.lane == 2]
    assert [node.id for node in fed.frame.nodes] == [4, 5, 6, 7]
    assert session.step(verdicts((7, 9), lane=2), 3.0) == [], "less is lacking now than makes a batch"


def test_a_warm_lane_serves_at_once_when_another_is_lost() -> None:
    session = two_lanes(standby=1)
    play(session, 5)
    opened, send = session.step(LaneLost(1), 1.0)
    assert opened == OpenLane()
    assert send.lane == 2
    assert [(node.token, node.wants_verdict) for node in send.frame.nodes] == [(8, False), *[(9, False)] * 4, (9, True)]
    assert session.deadline == pytest.approx(11.0)


def test_a_draining_lane_serves_until_another_is_warm() -> None:
    session = Session(Plain(), SessionConfig(200, round_seconds=10))
    session.step(LaneOpened(1), 0.0)
    session.step(Ask(PROMPT, 100), 0.0)
    session.step(verdicts((3, 8)), 0.1)
    assert session.step(LaneDraining(1), 0.2) == [OpenLane()]
    assert session.step(LaneDraining(1), 0.2) == [], "once is enough"
    [fed] = session.step(LaneOpened(2), 0.3)
    assert fed.lane == 2
    assert session.step(verdicts((4, 9)), 0.4)[-1].lane == 1
    closed, send = session.step(verdicts((4, 9), lane=2), 0.5)
    assert closed == CloseLane(1)
    assert [(send.lane, node.token) for node in send.frame.nodes] == [(2, 9)]


class LastDraftToTheSecond(Plain):
    """Sends the last of the drafts, and only that, to the second lane."""

    def moves(self, view: View) -> Sequence[Move]:
        drafts = [node.id for node in view.tree.drafts()]
        if len(view.lanes) == 2 and drafts and not view.lanes[1].has_seen(drafts[-1]):
            return [Verify(view.lanes[1].id, (drafts[-1],))]
        first = Propose((view.tree.tip.id,), 3)
        return [] if view.tip_sent else [Verify(view.lanes[0].id), *([first] if view.is_prompt else [])]


def test_a_frame_brings_what_its_lane_lacks_of_the_way_to_its_drafts() -> None:
    session = on_a_lane(Session(LastDraftToTheSecond(), SessionConfig(200, round_seconds=10, lanes=2)))
    assert session.step(Ask(PROMPT, 100), 0.0)[0] == OpenLane(replica=True)
    session.step(LaneOpened(2), 0.0)
    session.step(drafted(1, 3, 8, 1, 2), 0.1)
    session.step(verdicts((3, 8)), 0.2)
    [send] = session.step(verdicts((3, 8), lane=2), 0.3)
    assert send.lane == 2
    assert [node.token for node in send.frame.nodes] == [8, 1, 2]
    assert all(node.wants_verdict for node in send.frame.nodes), "for either lane can be lost"


def test_a_stopped_answer_leaves_a_session_that_can_be_asked_again() -> None:
    session = a_round_of_three()
    assert session.step(Stop(FinishReason.CANCELLED), 1.0) == [Finish(FinishReason.CANCELLED)]
    assert not session.answering
    assert session.deadline is None
    assert session.counts.wasted == 3
    assert session.step(Stop(FinishReason.CANCELLED), 1.0) == []
    assert session.step(verdicts((4, 1)), 1.1) == []
    actions = session.step(Ask((*PROMPT, 8, 9), 5), 2.0)
    assert actions[0] == Send(1, Frame((FrameNode(8, 4, 9),), keep=8))


def test_near_ties_are_counted() -> None:
    session = on_a_lane(plain())
    session.step(Ask(PROMPT, 5), 0.0)
    session.step(verdicts((3, 8), margin=1e-5), 0.1)
    session.step(verdicts((4, 8), margin=1e-3), 0.2)
    assert session.counts.near_ties == 1


# -- what it refuses ---------------------------------------------------------------------------------------------------


def test_no_second_question_before_the_first_is_answered() -> None:
    session = a_round_of_three()
    with pytest.raises(UsageError, match="still answering"):
        session.step(Ask((1,), 1), 1.0)


def test_no_empty_prompt() -> None:
    with pytest.raises(UsageError, match="empty"):
        plain().step(Ask((), 1), 0.0)


def test_the_reservation_is_exact() -> None:
    session = Session(Plain(), SessionConfig(capacity=10, draft_slack=2))
    with pytest.raises(PromptTooLong, match="3 tokens and the answer may have 6, but the session reserved 8"):
        session.step(Ask(PROMPT, 6), 0.0)
    assert not session.answering
    assert session.step(Ask(PROMPT, 5), 0.0) == [OpenLane()]


def test_an_answer_to_the_last_reserved_position_fits_every_stage() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        converse(blocking(chance.randint(1, 20), capacity=30), chance.random(), 27, seed=seed)


def test_nothing_asked_for_is_answered_at_once() -> None:
    assert plain().step(Ask(PROMPT, 0), 0.0) == [Finish(FinishReason.LENGTH)]


# -- relaxed acceptance ------------------------------------------------------------------------------------------------


def torn(node: int, choice: int, other: int, lead: float = 0.5) -> Verdict:
    """The target chose one token and would nearly have chosen another."""
    top = tuple(Candidate(TokenId(token), -0.7, score) for token, score in ((choice, 2.0), (other, 2.0 - lead)))
    return Verdict(NodeId(node), TokenId(choice), lead, top, 0.69)


def lax(budget: float = 9.0, window: int = 0, slack: int = 0) -> Session:
    rule = Adaptive(1.0, drift_budget=budget, weighs_importance=False, window=window)
    return on_a_lane(Session(Blocking(FixedLength(3)), SessionConfig(200, slack, round_seconds=10), rule))


def in_flight(session: Session, *tokens_drafted: int, tokens: int = 9) -> Session:
    """Asked, answered 50 at node 4, and with drafts sent as nodes 5 and on."""
    session.step(Ask(PROMPT, tokens), 0.0)
    session.step(VerdictsArrived(1, (Verdict(NodeId(3), TokenId(50), 1.0),)), 1.0)
    session.step(Drafted(DraftId(1), ()), 1.0)
    proposals = tuple(DraftedToken(TokenId(token), 0.5) for token in tokens_drafted)
    session.step(Drafted(DraftId(2), (Branch(NodeId(4), proposals),)), 2.0)
    return session


def test_a_forgiven_draft_stands_and_says_what_it_gave_away() -> None:
    session = in_flight(lax(), 61, 62)
    actions = session.step(VerdictsArrived(1, (torn(4, 71, 61), torn(5, 62, 99), torn(6, 63, 99))), 3.0)
    assert committed(actions) == [(61, Origin.RELAXED), (62, Origin.ACCEPTED), (63, Origin.BONUS)]
    assert [token.drift for action in actions if isinstance(action, Emit) for token in action.tokens] == [0.5, 0.0, 0.0]
    assert (session.counts.accepted, session.counts.relaxed, session.counts.recovered) == (2, 1, 0)


def test_the_targets_own_choice_in_another_branch_is_taken_before_a_forgiven_one() -> None:
    session = in_flight(lax(), 61, 62)
    session.tree.add(NodeId(4), TokenId(71), rank=1)
    actions = session.step(VerdictsArrived(1, (torn(4, 71, 61),)), 3.0)
    assert committed(actions) == [(71, Origin.RECOVERED)]


def test_a_spent_drift_budget_ends_the_forgiving_of_an_answer_and_not_of_the_next() -> None:
    session = in_flight(lax(budget=0.7), 61, 62)
    actions = session.step(VerdictsArrived(1, (torn(4, 71, 61), torn(5, 72, 62))), 3.0)
    assert committed(actions) == [(61, Origin.RELAXED), (72, Origin.RECOVERED)]
    session.step(Stop(FinishReason.CANCELLED), 4.0)
    session.step(Ask((*PROMPT, 50), 9), 5.0)
    assert session.counts.relaxed == 1


# -- the late rule -----------------------------------------------------------------------------------------------------


LATE_VERDICTS = [torn(4, 71, 61), Verdict(NodeId(5), TokenId(62), 1.0), Verdict(NodeId(6), TokenId(63), 1.0)]
"""A draft to forgive, and that both drafts after it match."""


def hear(session: Session, *verdicts: Verdict, lane: int = 1, now: float = 3.0) -> list[tuple[int, Origin]]:
    return committed(session.step(VerdictsArrived(LaneId(lane), verdicts), now))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_what_is_forgiven_late_waits_for_its_evidence_in_whatever_order_it_comes(order: tuple[int, ...]) -> None:
    session, said = in_flight(lax(window=2), 61, 62, 63), list[tuple[int, Origin]]()
    for place in order:
        assert not said, "nothing is told before all of it is there"
        said = hear(session, LATE_VERDICTS[place]) + hear(session, LATE_VERDICTS[place])
    assert said == [(61, Origin.RELAXED), (62, Origin.ACCEPTED), (63, Origin.ACCEPTED)]
    assert (session.counts.accepted, session.counts.relaxed, session.counts.recovered) == (3, 1, 0)


def test_evidence_against_it_brings_the_targets_choice_and_nothing_was_told_before() -> None:
    session = in_flight(lax(window=2), 61, 62, 63)
    assert hear(session, *LATE_VERDICTS[:2]) == []
    assert hear(session, Verdict(NodeId(6), TokenId(99), 1.0)) == [(71, Origin.RECOVERED)]
    assert session.counts.relaxed == 0


def test_what_nobody_was_asked_about_is_no_evidence() -> None:
    """Else a rejection would wait for drafts that are not made yet."""
    session = in_flight(lax(window=3), 61, 62, 63)
    assert hear(session, *LATE_VERDICTS) == []
    assert hear(session, Verdict(NodeId(7), TokenId(64), 1.0)) == [(71, Origin.RECOVERED)], "of three matches there are two"


def test_where_the_answer_ends_before_the_evidence_what_is_left_of_it_is_enough() -> None:
    session = in_flight(lax(window=8), 61, 62, tokens=4)
    assert hear(session, *LATE_VERDICTS[:2]) == [(61, Origin.RELAXED), (62, Origin.ACCEPTED)]
    assert hear(session, LATE_VERDICTS[2]) == [(63, Origin.BONUS)]
    assert not session.answering


def test_nothing_is_forgiven_where_the_answer_leaves_no_room_for_evidence() -> None:
    session = in_flight(lax(window=2), 61, tokens=3)
    assert hear(session, torn(4, 71, 61)) == [(71, Origin.RECOVERED)]


def test_a_lane_that_is_lost_takes_the_evidence_with_it() -> None:
    session = in_flight(lax(window=2), 61, 62, 63)
    assert hear(session, LATE_VERDICTS[0]) == []
    assert committed(session.step(LaneLost(LaneId(1)), 4.0)) == [(71, Origin.RECOVERED)]


def test_a_lane_that_falls_silent_is_not_waited_for_beyond_its_deadline() -> None:
    session = in_flight(lax(window=2), 61, 62, 63)
    assert hear(session, LATE_VERDICTS[0]) == []
    assert session.deadline is not None
    assert committed(session.step(Tick(), session.deadline)) == [(71, Origin.RECOVERED)]


def test_a_lane_that_drains_may_be_closed_and_is_not_waited_for() -> None:
    session = in_flight(lax(window=2), 61, 62, 63)
    session.step(LaneDraining(LaneId(1)), 2.5)
    assert hear(session, LATE_VERDICTS[0]) == [(71, Origin.RECOVERED)]


def test_an_answer_that_is_stopped_while_a_draft_waits_holds_nothing_of_it() -> None:
    session = in_flight(lax(window=2, slack=4), 61, 62, 63)
    assert hear(session, LATE_VERDICTS[0]) == []
    assert session.step(Stop(FinishReason.CANCELLED), 4.0) == [Finish(FinishReason.CANCELLED)]
    assert tuple(session.tree.tokens) == (*PROMPT, 50)
    assert hear(session, *LATE_VERDICTS[1:]) == []
    session.step(Ask((*PROMPT, 50), 9), 5.0)
    assert hear(session, Verdict(NodeId(8), TokenId(71), 1.0)) == [(71, Origin.BONUS)]


def test_the_budget_is_spent_by_what_stands_and_not_by_what_falls() -> None:
    session = in_flight(lax(budget=0.7, window=1), 61, 62, 63)
    assert hear(session, torn(4, 71, 61), torn(5, 72, 62)) == [(71, Origin.RECOVERED)], "72 does not match"
    session = in_flight(lax(budget=0.7, window=1), 61, 62, 63)
    assert hear(session, *LATE_VERDICTS[:2], torn(6, 73, 63)) == [
        (61, Origin.RELAXED), (62, Origin.ACCEPTED), (73, Origin.RECOVERED),
    ]  # fmt: skip


def test_while_a_draft_waits_the_targets_choice_goes_ahead_as_a_branch() -> None:
    """Law 3: whichever of the two will be the tip, its verification is not held back."""
    session = in_flight(lax(window=2, slack=4), 61, 62, 63)
    session._policy = Eager()
    actions = session.step(VerdictsArrived(LaneId(1), (LATE_VERDICTS[0],)), 3.0)
    assert [[node.token for node in action.frame.nodes] for action in actions if isinstance(action, Send)] == [[71]]
    assert hear(session, Verdict(NodeId(5), TokenId(99), 1.0), Verdict(NodeId(8), TokenId(72), 1.0)) == [
        (71, Origin.RECOVERED), (72, Origin.BONUS),
    ]  # fmt: skip


class Eager(Lookahead):
    """Sends whatever there is."""

    def moves(self, view: View) -> Sequence[Move]:
        unsent = tuple(node.id for node in view.tree.drafts() if not view.is_sent(node.id))
        return (Verify(view.lanes[0].id, unsent),) if unsent or not view.tip_sent else ()


def test_whoever_served_alone_is_replaced_by_any_chain_whatever_is_looked_for_beside_it() -> None:
    session = on_a_lane(Session(Plain(), SessionConfig(200, round_seconds=10, lanes=3)))
    replicas = [action for action in session.step(Ask(PROMPT, 100), 0.0) if isinstance(action, OpenLane)]
    assert replicas == [OpenLane(replica=True)] * 2
    assert session.step(LaneLost(1), 0.1) == [OpenLane(replica=False)]
    session.step(LaneOpened(2), 0.2)
    session.step(LaneOpened(3), 0.2)
    assert session.step(LaneLost(2), 0.3)[0] == OpenLane(replica=True)


def test_a_lane_that_says_nothing_or_repeats_itself_is_overdue_all_the_same() -> None:
    session = on_a_lane(plain())
    session.step(Ask(PROMPT, 5), 0.0)
    session.step(VerdictsArrived(1, (Verdict(NodeId(3), TokenId(9), margin=1.0),), NO_TIME), 0.0)
    for second in range(1, 40):
        again = (Verdict(NodeId(3), TokenId(9), margin=1.0),) if second % 2 else ()
        session.step(VerdictsArrived(1, again, NO_TIME), float(second))
    assert session.deadline is not None
    assert session.deadline < 39.0
    assert session.step(Tick(), 39.0) == [OpenLane(replica=False)]
    session.step(VerdictsArrived(1, (), NO_TIME), 40.0)
    assert session.lanes_serving == 0


def test_one_frame_at_a_time_asks_another_lane_though_the_drafter_is_at_work() -> None:
    session = on_a_lane(blocking(3))
    actions = session.step(Ask(PROMPT, 5), 0.0)
    assert any(isinstance(action, Draft) for action in actions)
    assert session.deadline is not None
    session.step(Tick(), session.deadline)
    sent = [action for action in session.step(LaneOpened(2), 100.0) if isinstance(action, Send)]
    assert [send.lane for send in sent] == [2]
