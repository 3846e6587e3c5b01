"""One peer's decisions: rounds, suspicion, refutation, and death that hearsay does not undo."""

import pytest

from dsd_core.membership.events import (
    Action,
    Answered,
    Asked,
    Exchange,
    Found,
    Gossip,
    Held,
    Introduced,
    Lost,
    Passed,
    ProbeThrough,
    Publish,
    Published,
    Reply,
    Tick,
    Unanswered,
    Usurped,
    Vouched,
)
from dsd_core.membership.ids import Handle, handle_of
from dsd_core.membership.membership import Membership, MembershipConfig
from dsd_core.membership.record import SignedRecord
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from tests.membership.conftest import signed_by

ME, ALICE, BOB, CAROL = (Identity.ephemeral() for _ in range(4))
ALL = (Handle(b""), Handle(b""))


def first_of(_: int) -> int:
    return 0


def membership_of(*others: Identity, now: float = 0.0) -> Membership:
    """Ours, which holds the first record of each of the others."""
    mine = Membership(ME.peer_id, first_of, MembershipConfig(refresh_rounds=1000))
    mine.step(Published(signed_by(ME, 7)), now)
    hear(mine, *(signed_by(other) for other in others), now=now)
    return mine


def hear(mine: Membership, *records: SignedRecord, now: float = 0.0) -> list[Action]:
    actions = mine.step(Asked(Gossip(records=tuple(Passed(signed, 1.0) for signed in records))), now)
    assert isinstance(actions[-1], Reply)
    return actions[:-1]


def reply(mine: Membership, gossip: Gossip, now: float = 0.0) -> Gossip:
    answer = mine.step(Asked(gossip), now)[-1]
    assert isinstance(answer, Reply)
    return answer.gossip


def only(kind: type[Action], actions: list[Action]) -> Action:  # type: ignore[valid-type]
    [found] = [action for action in actions if isinstance(action, kind)]
    return found


def bury(mine: Membership, identity: Identity) -> None:
    """Suspect a peer, and let its window pass."""
    mine.step(Vouched(identity.peer_id, False), 0.0)
    assert Lost(identity.peer_id, is_dead=True) in mine.step(Tick(), 50.0)


def test_a_newcomer_publishes_itself_first() -> None:
    assert Publish(0, 120) in Membership(ME.peer_id, first_of).step(Tick(), 0.0)


def test_a_record_is_refreshed_in_time() -> None:
    mine = Membership(ME.peer_id, first_of)
    mine.step(Published(signed_by(ME, 7)), 0.0)
    assert mine.step(Tick(), 29.0) == []
    assert mine.step(Tick(), 30.0) == [Publish(7, 120)]


def test_the_more_peers_the_rarer_the_refresh() -> None:
    config = MembershipConfig()
    assert config.refresh_seconds(3) == 30.0
    assert config.refresh_seconds(1000) == 1000.0
    assert config.ttl_seconds(1000) == 4000


def test_what_we_publish_is_told_to_some_at_once() -> None:
    mine = membership_of(ALICE, BOB)
    news = signed_by(ME, 8)
    told = mine.step(Published(news), 1.0)
    assert {action.peer for action in told} == {ALICE.peer_id, BOB.peer_id}  # type: ignore[union-attr]
    assert all(action.gossip == Gossip(records=(Passed(news, 0.0),)) for action in told)  # type: ignore[union-attr]


def test_each_round_asks_another_peer_and_all_in_turn() -> None:
    mine = membership_of(ALICE, BOB, CAROL)
    asked = [only(Exchange, mine.step(Tick(), float(now))).peer for now in range(6)]  # type: ignore[union-attr]
    assert set(asked[:3]) == set(asked[3:]) == {ALICE.peer_id, BOB.peer_id, CAROL.peer_id}


def test_a_round_says_what_is_held() -> None:
    mine = membership_of(ALICE)
    gossip = only(Exchange, mine.step(Tick(), 0.0)).gossip  # type: ignore[union-attr]
    assert gossip.held == Held({handle_of(ALICE.peer_id): 1, handle_of(ME.peer_id): 7}, *ALL)


def test_the_answer_brings_what_is_lacking_and_asks_for_what_it_lacks_itself() -> None:
    mine = membership_of(ALICE, BOB)
    answer = reply(mine, Gossip(held=Held({handle_of(ALICE.peer_id): 2, handle_of(CAROL.peer_id): 1}, *ALL)))
    assert {passed.signed.record.peer for passed in answer.records} == {ME.peer_id, BOB.peer_id}
    assert set(answer.wanted) == {handle_of(ALICE.peer_id), handle_of(CAROL.peer_id)}


def test_what_is_known_is_not_sent_again() -> None:
    mine = membership_of(ALICE)
    held = {handle_of(ALICE.peer_id): 1, handle_of(ME.peer_id): 7}
    assert reply(mine, Gossip(held=Held(held, *ALL))) == Gossip()


def test_what_was_asked_for_is_brought_once() -> None:
    mine = membership_of(ALICE, BOB)
    [push] = mine.step(Answered(ALICE.peer_id, Gossip(wanted=(handle_of(BOB.peer_id), handle_of(CAROL.peer_id)))), 3.0)
    assert push == Exchange(
        ALICE.peer_id, (Address("127.0.0.1", 4100),), Gossip(records=(Passed(signed_by(BOB), 4.0),))
    )
    assert mine.step(Answered(ALICE.peer_id, reply(membership_of(), push.gossip)), 3.0) == []  # type: ignore[union-attr]


def test_a_new_member_is_announced_once() -> None:
    mine = membership_of()
    assert hear(mine, signed_by(ALICE, 1)) == [Found(ALICE.peer_id)]
    assert hear(mine, signed_by(ALICE, 2)) == []


def test_who_does_not_answer_is_tried_through_others_first() -> None:
    mine = membership_of(ALICE, BOB, CAROL)
    [probe] = mine.step(Unanswered(ALICE.peer_id), 0.0)
    assert isinstance(probe, ProbeThrough)
    assert (set(probe.helpers), probe.peer) == ({BOB.peer_id, CAROL.peer_id}, ALICE.peer_id)
    assert mine.step(Vouched(ALICE.peer_id, True), 1.0) == []
    assert mine.table.suspected == {}


def test_where_there_is_nobody_to_ask_silence_is_enough() -> None:
    mine = membership_of(ALICE)
    assert mine.step(Unanswered(ALICE.peer_id), 0.0) == []
    assert list(mine.table.suspected) == [handle_of(ALICE.peer_id)]
    assert [signed.record.peer for signed in mine.suspected(0.0)] == [ALICE.peer_id]
    assert ALICE.peer_id not in [signed.record.peer for signed in mine.records(0.0)]


def test_a_suspect_that_says_nothing_is_dead_when_its_window_has_passed() -> None:
    mine = membership_of(ALICE, BOB)
    mine.step(Vouched(ALICE.peer_id, False), 0.0)
    window = mine.config.suspicion_seconds(3)
    assert mine.records(1.0) == [signed_by(ME, 7), signed_by(BOB)]
    assert not any(isinstance(action, Lost) for action in mine.step(Tick(), window - 0.1))
    assert Lost(ALICE.peer_id, is_dead=True) in mine.step(Tick(), window)


def test_the_suspicion_is_passed_on_and_the_suspect_refutes_it() -> None:
    mine, alice = membership_of(ALICE, BOB), Membership(ALICE.peer_id, first_of)
    alice.step(Published(signed_by(ALICE, 1)), 0.0)
    mine.step(Vouched(ALICE.peer_id, False), 0.0)
    gossip = only(Exchange, mine.step(Tick(), 0.0)).gossip  # type: ignore[union-attr]
    assert gossip.suspected == {handle_of(ALICE.peer_id): 1}
    assert Publish(1, alice.config.ttl_seconds(2)) in alice.step(Asked(gossip), 1.0)
    hear(mine, signed_by(ALICE, 2), now=2.0)
    assert mine.table.suspected == {}
    assert not any(isinstance(action, Lost) for action in mine.step(Tick(), 100.0))


def test_the_same_record_again_refutes_nothing() -> None:
    mine = membership_of(ALICE)
    mine.step(Vouched(ALICE.peer_id, False), 0.0)
    hear(mine, signed_by(ALICE, 1), now=1.0)
    assert list(mine.table.suspected) == [handle_of(ALICE.peer_id)]


@pytest.mark.parametrize("sequence", [6, 8, 2**64 - 1])
def test_a_suspicion_that_is_refuted_or_made_up_is_nothing(sequence: int) -> None:
    """Or anybody could drive our sequence to its end."""
    mine = membership_of(ALICE)
    suspected = {handle_of(ME.peer_id): sequence, handle_of(ALICE.peer_id): sequence, handle_of(BOB.peer_id): sequence}
    assert [type(action) for action in mine.step(Asked(Gossip(suspected=suspected)), 0.0)] == [Reply]
    assert mine.table.suspected == {}


def test_hearsay_does_not_revive_the_dead() -> None:
    mine = membership_of(ALICE, BOB)
    bury(mine, ALICE)
    assert hear(mine, signed_by(ALICE, 1), now=51.0) == []
    assert mine.table.get(handle_of(ALICE.peer_id)) is None


def test_who_believes_in_one_of_the_dead_is_told() -> None:
    mine = membership_of(ALICE, BOB)
    bury(mine, ALICE)
    held = {handle_of(ALICE.peer_id): 1, handle_of(BOB.peer_id): 1, handle_of(ME.peer_id): 7}
    assert reply(mine, Gossip(held=Held(held, *ALL)), 51.0) == Gossip(suspected={handle_of(ALICE.peer_id): 1})


def test_one_of_the_dead_comes_back_by_a_newer_record_of_its_own() -> None:
    mine = membership_of(ALICE, BOB)
    bury(mine, ALICE)
    assert hear(mine, signed_by(ALICE, 2), now=51.0) == [Found(ALICE.peer_id)]


def test_the_dead_are_tried_now_and_then() -> None:
    """Else two halves of a swarm that was cut in two would never meet again."""
    mine = membership_of(ALICE, BOB)
    bury(mine, ALICE)
    tried = [action.peer for _ in range(20) for action in mine.step(Tick(), 51.0) if isinstance(action, Exchange)]
    assert tried.count(ALICE.peer_id) == 2


def test_an_expired_record_is_gone_and_stays_so() -> None:
    mine = membership_of(ALICE)
    mine.step(Tick(), 0.0)
    assert mine.records(121.0) == []
    assert Lost(ALICE.peer_id, is_dead=False) in mine.step(Tick(), 121.0)
    assert hear(mine, signed_by(ALICE, 1), now=122.0) == []


def test_a_seed_is_asked_at_once_and_again_until_it_answers() -> None:
    mine = membership_of()
    there = (Address("127.0.0.9", 1),)
    assert [action.peer for action in mine.step(Introduced(ALICE.peer_id, there), 0.0)] == [ALICE.peer_id]  # type: ignore[union-attr]
    mine.step(Unanswered(ALICE.peer_id), 1.0)
    again = only(Exchange, mine.step(Tick(), 2.0))
    assert (again.peer, again.addresses) == (ALICE.peer_id, there)  # type: ignore[union-attr]
    assert mine.step(Introduced(ME.peer_id, there), 2.0) == []


def test_a_record_of_ours_from_another_life_is_outbid() -> None:
    mine = membership_of(ALICE)
    assert hear(mine, signed_by(ME, 9)) == [Publish(9, mine.config.ttl_seconds(3))]
    assert hear(mine, signed_by(ME, 6)) == []


def test_somebody_else_with_our_key_is_noticed() -> None:
    elsewhere = (Address("127.0.0.9", 1),)
    actions = hear(membership_of(ALICE), signed_by(ME, 9, addresses=elsewhere))
    assert [type(action) for action in actions] == [Usurped, Publish]
    assert actions[0] == Usurped(elsewhere)


