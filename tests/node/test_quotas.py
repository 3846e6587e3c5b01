"""Who may hold how much: nobody more than a share, strangers less, and what is given back is there again."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dsd_core.errors import OutOfCapacity, UsageError
from dsd_core.network.identity import PeerId
from dsd_node.quotas import KNOWN_PEERS, RETRY_SECONDS, Claim, Limits, Quotas

ALICE, BOB = PeerId("alice"), PeerId("bob")
LIMITS = Limits(kv_bytes=8000, sessions=16, calls=32)


def refusal(quotas: Quotas, peer: PeerId, nbytes: int = 1) -> OutOfCapacity:
    with pytest.raises(OutOfCapacity) as caught:
        quotas.open_session(b"refused", peer, nbytes)
    assert b"refused" not in quotas
    return caught.value


def open_many(quotas: Quotas, peer: PeerId, count: int, nbytes: int = 1) -> None:
    for number in range(count):
        quotas.open_session(f"{peer} {number}".encode(), peer, nbytes)


def test_a_known_peer_holds_a_quarter_of_the_memory() -> None:
    quotas = Quotas(LIMITS)
    quotas.remember(ALICE)
    quotas.open_session(b"a", ALICE, 2000)
    assert refusal(quotas, ALICE).retry_after == RETRY_SECONDS
    quotas.close_session(b"a")
    quotas.open_session(b"a", ALICE, 2000)


def test_a_stranger_holds_half_as_much() -> None:
    quotas = Quotas(LIMITS)
    quotas.open_session(b"a", ALICE, 1000)
    assert refusal(quotas, ALICE).retry_after == RETRY_SECONDS


def test_what_can_never_fit_carries_no_hint() -> None:
    error = refusal(Quotas(LIMITS), ALICE, 1001)
    assert error.retry_after is None
    assert "1000 bytes" in str(error)


def test_places_are_shared_out_like_memory() -> None:
    quotas = Quotas(LIMITS)
    open_many(quotas, ALICE, 2)
    assert "sessions" in str(refusal(quotas, ALICE))
    quotas.remember(ALICE)
    quotas.open_session(b"third", ALICE, 1)


def test_strangers_together_leave_a_quarter_to_those_who_are_known() -> None:
    quotas = Quotas(LIMITS)
    for number in range(6):
        quotas.open_session(bytes([number]), PeerId(f"stranger {number}"), 1000)
    assert "strangers hold" in str(refusal(quotas, ALICE))
    quotas.remember(ALICE)
    quotas.open_session(b"a", ALICE, 2000)


def test_a_full_node_is_full_for_everybody() -> None:
    quotas = Quotas(LIMITS)
    for name in "abcd":
        quotas.remember(PeerId(name))
        quotas.open_session(name.encode(), PeerId(name), 2000)
    quotas.remember(BOB)
    assert "given out 8000 of 8000" in str(refusal(quotas, BOB))


def test_a_peer_that_becomes_known_gives_back_what_it_held_as_a_stranger() -> None:
    quotas = Quotas(LIMITS)
    for number in range(6):
        quotas.open_session(bytes([number]), PeerId(f"stranger {number}"), 1000)
    quotas.remember(PeerId("stranger 0"))
    quotas.close_session(bytes([0]))
    quotas.open_session(b"a", ALICE, 1000)
    refusal(quotas, BOB)


def test_calls_are_counted_for_each_peer() -> None:
    quotas = Quotas(LIMITS)
    claims = [quotas.begin_call(ALICE) for _ in range(4)]
    with pytest.raises(OutOfCapacity):
        quotas.begin_call(ALICE)
    quotas.begin_call(BOB)
    quotas.end_call(claims[0])
    quotas.begin_call(ALICE)


def test_only_so_many_are_remembered() -> None:
    quotas = Quotas(LIMITS)
    quotas.remember(ALICE)
    for number in range(KNOWN_PEERS):
        quotas.remember(PeerId(str(number)))
    assert refusal(quotas, ALICE, 2000).retry_after is None


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1, float("nan")])
def test_a_share_that_makes_no_sense(share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        Limits(1, peer_share=share)


PEERS = st.sampled_from([PeerId(name) for name in "abcdefgh"])


class Books(RuleBasedStateMachine):
    """Against what is written down beside: whatever is opened, closed and remembered, the promises hold."""

    def __init__(self) -> None:
        super().__init__()
        self.quotas = Quotas(LIMITS)
        self.open: dict[bytes, tuple[PeerId, int, bool]] = {}
        self.known: set[PeerId] = set()
        self.calls: list[Claim] = []
        self.next_id = 0

    @rule(peer=PEERS, nbytes=st.integers(1, 2500))
    def open_session(self, peer: PeerId, nbytes: int) -> None:
        self.next_id += 1
        session_id = str(self.next_id).encode()
        try:
            self.quotas.open_session(session_id, peer, nbytes)
        except OutOfCapacity:
            return
        self.open[session_id] = peer, nbytes, peer not in self.known

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close_session(self, data: st.DataObject) -> None:
        session_id = data.draw(st.sampled_from(sorted(self.open)))
        self.quotas.close_session(session_id)
        del self.open[session_id]

    @rule(peer=PEERS)
    def remember(self, peer: PeerId) -> None:
        self.quotas.remember(peer)
        self.known.add(peer)

    @rule(peer=PEERS)
    def begin_call(self, peer: PeerId) -> None:
        try:
            self.calls.append(self.quotas.begin_call(peer))
        except OutOfCapacity:
            held = sum(claim.peer == peer for claim in self.calls)
            assert held >= 4 or len(self.calls) >= 24

    @precondition(lambda self: self.calls)
    @rule()
    def end_call(self) -> None:
        self.quotas.end_call(self.calls.pop())

    @invariant()
    def nobody_holds_more_than_a_share(self) -> None:
        held: Counter[PeerId] = Counter()
        for peer, nbytes, _ in self.open.values():
            held[peer] += nbytes
        assert all(amount <= (2000 if peer in self.known else 1000) for peer, amount in held.items())
        assert sum(nbytes for _, nbytes, stranger in self.open.values() if stranger) <= 6000
        assert held.total() <= 8000
        assert all(count <= 4 for count in Counter(peer for peer, _, _ in self.open.values()).values())

    def teardown(self) -> None:
        """All that is left can be closed, and then everything is there again."""
        for session_id in self.open:
            self.quotas.close_session(session_id)
        for name in "wxyz":
            self.quotas.remember(PeerId(name))
            self.quotas.open_session(name.encode(), PeerId(name), 2000)


TestBooks = Books.TestCase
