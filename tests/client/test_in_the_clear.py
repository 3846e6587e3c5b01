"""Without TLS, where nobody can say who is who."""

from dsd_client import Client
from dsd_core.network.transport import Plaintext
from tests.conftest import InProcessSwarm, TinyModel

PROMPT = [5, 6, 7]
TOKENS = 8


async def test_stages_hand_frames_on(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    """A stage takes them from the one that the client named to it."""
    for layers in (range(0, 2), range(2, 4)):
        await new_swarm.start(target, layers, transport=Plaintext())
    async with Client(new_swarm.addresses, str(target), "none", insecure_loopback=True, timeout=5) as client:
        answer = await client.generate(PROMPT, max_new_tokens=TOKENS)
    target.greedy(PROMPT, TOKENS).assert_same(answer.token_ids)
