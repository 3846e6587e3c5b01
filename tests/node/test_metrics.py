"""What Prometheus is told of a node is what happened there, and nothing of who asked or what was said."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
import pytest_asyncio
import torch
from prometheus_client.parser import text_string_to_metric_families

from dsd_core.errors import AddressInUse
from dsd_core.membership.record import State
from dsd_core.model.span import Span, SpanInput
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_node.metrics import Metrics
from dsd_node.quotas import Limits, Quotas
from tests.conftest import InProcessSwarm, TinyModel, eventually
from tests.membership.conftest import record_of
from tests.node.conftest import open_raw, refusal

PROMPT = [5, 6, 7, 8, 9, 10]
ANY = Address("127.0.0.1", 0)


def said(metrics: Metrics) -> dict[str, float]:
    """Samples by name, with the values of their labels behind a slash."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    samples = [sample for family in families for sample in family.samples]
    return {"/".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def failed_calls(metrics: Metrics) -> dict[str, float]:
    """How many, by reason."""
    return {name.split("/")[1]: count for name, count in said(metrics).items() if "failed_calls_total" in name}


@pytest_asyncio.fixture(loop_scope="session")
async def swarm(target: TinyModel, new_swarm: InProcessSwarm) -> AsyncIterator[InProcessSwarm]:
    """Two stages that nobody has used yet."""
    for layers in (range(2), range(2, 4)):
        await new_swarm.start(target, layers)
    yield new_swarm


async def test_what_an_answer_leaves_behind(swarm: InProcessSwarm) -> None:
    """Six tokens of prompt and three of an answer go through both stages; the last is the choice that ends it."""
    async with open_raw(swarm.nodes) as session:
        await session.greedy(PROMPT, 4)
        for node in swarm.nodes:
            now = said(node.metrics)
            assert now["dsd_node_sessions"] == 1
            assert now["dsd_node_reserved_kv_bytes"] == node.engine.reserved_bytes > 0
    await swarm.is_free()
    for node in swarm.nodes:
        now = said(node.metrics)
        assert (now["dsd_node_frames_total"], now["dsd_node_computed_nodes_total"]) == (4, 9)
        assert now["dsd_node_stale_nodes_total"] == 0
        assert now["dsd_node_compute_seconds_count"] == now["dsd_node_wait_seconds_count"] == 4
        assert 0 < now["dsd_node_compute_seconds_sum"] < 10
        assert 0 <= now["dsd_node_wait_seconds_sum"] < 10
        assert (now["dsd_node_sessions"], now["dsd_node_reserved_kv_bytes"]) == (0, 0)


async def test_hidden_states_are_most_of_the_bytes(swarm: InProcessSwarm) -> None:
    async with open_raw(swarm.nodes) as session:
        await session.greedy(PROMPT, 4)
    await swarm.is_free()
    first, last = [said(node.metrics) for node in swarm.nodes]
    hidden = 9 * 32 * 4  # nodes, width, bytes of a float32
    assert first["dsd_node_bytes_total/received"] < hidden < first["dsd_node_bytes_total/sent"]
    assert last["dsd_node_bytes_total/sent"] < hidden < last["dsd_node_bytes_total/received"]


async def test_nodes_that_nobody_needs_any_more_are_counted(swarm: InProcessSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, forward = threading.Event(), Span.forward

    def held_up(span: Span, batch: Sequence[SpanInput]) -> list[torch.Tensor]:
        go_on.wait(10)
        return forward(span, batch)

    async with open_raw(swarm.nodes) as session:
        tip = (await session.send_run(PROMPT, 0))[-1]
        await session.verdict()
        monkeypatch.setattr(Span, "forward", held_up)
        await session.send_run([20], tip, wanted=[])  # is being computed when the others come
        await asyncio.sleep(0.1)
        await session.send_run([21, 22, 23], tip, wanted=[])
        await session.send_run([11], tip, keep=session.next_id)
        await asyncio.sleep(0.1)
        go_on.set()
        await session.verdict()
    now = said(swarm.nodes[0].metrics)
    assert (now["dsd_node_frames_total"], now["dsd_node_stale_nodes_total"]) == (4, 3)


async def test_refusals_are_counted_by_their_reason(swarm: InProcessSwarm) -> None:
    node = swarm.nodes[1]
    await refusal(node, capacity=10**6)
    await refusal(node, capacity=10**6)
    await refusal(node, session_id=b"short")
    await eventually(lambda: failed_calls(node.metrics) == {"failed_precondition": 2, "invalid_argument": 1})


async def test_labels_name_nobody(swarm: InProcessSwarm) -> None:
    async with open_raw(swarm.nodes) as session:
        await session.greedy(PROMPT, 2)
    await refusal(swarm.nodes[0], session_id=b"short")
    await eventually(lambda: bool(failed_calls(swarm.nodes[0].metrics)))
    families = list(text_string_to_metric_families(swarm.nodes[0].metrics.exposition().decode()))
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels == {"le", "direction", "reason", "state"}


def test_peers_are_counted_by_state() -> None:
    states = [State.SERVING, State.JOINING, State.SERVING]
    metrics = Metrics()
    metrics.watch(Quotas(Limits(0)), lambda: [record_of(Identity.ephemeral(), state=state) for state in states])
    states.append(State.JOINING)
    now = said(metrics)
    assert [now[f"dsd_node_peers/{state}"] for state in ("serving", "joining", "draining")] == [2, 2, 0]


async def test_they_are_served_over_http_until_the_node_ends() -> None:
    metrics = Metrics()
    metrics.on_drafted(0.25)
    async with httpx.AsyncClient() as http:
        async with metrics.served(ANY) as url:
            answers = [await http.get(url) for _ in range(2)]
        with pytest.raises(httpx.ConnectError):
            await http.get(url)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "dsd_node_draft_seconds_count 1.0" in answers[0].text


async def test_an_address_that_is_taken_is_said() -> None:
    async with Metrics().served(ANY) as url:
        taken = Address("127.0.0.1", httpx.URL(url).port or 0)
        with pytest.raises(AddressInUse, match=f"port {taken.port}"):
            async with Metrics().served(taken):
                pass


async def test_a_call_that_is_cut_off_is_no_failure(swarm: InProcessSwarm) -> None:
    async with open_raw(swarm.nodes) as session:
        await session.greedy(PROMPT, 1)
    await eventually(lambda: said(swarm.nodes[0].metrics)["dsd_node_sessions"] == 0)
    assert failed_calls(swarm.nodes[0].metrics) == {}
