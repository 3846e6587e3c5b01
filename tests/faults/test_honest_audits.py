"""V3 of the promises: honest nodes with a real model pass every audit, in either precision, whatever the sizes of frames."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import margins
from dsd_client import Client, SamplingParams
from dsd_core import embedded
from dsd_core.decoding.choice.audit import Severity
from dsd_core.model.source import resolve
from tests.client.test_auditing import heard
from tests.conftest import InProcessSwarm
from tests.scale import count

PROMPTS = [
    "Question: Tom has 3 bags of 5 marbles. How many marbles?\nAnswer:",
    "def add(a, b):\n",
    "Question: A train goes 60 miles in 2 hours. How fast?\nAnswer:",
    "Once upon a time",
    "import os\n\ndef ",
]
SAMPLINGS = [SamplingParams(), SamplingParams(temperature=0.9, seed=1), SamplingParams(temperature=0.9, top_p=0.95, seed=2)]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
async def test_no_honest_node_is_struck(new_swarm: InProcessSwarm, dtype: str) -> None:
    source = resolve(str(embedded.TARGET))
    for _ in range(3):
        await new_swarm.start(SimpleNamespace(source=source), range(source.num_layers), dtype=dtype)  # type: ignore[arg-type]
    async with Client(new_swarm.addresses, audit=1.0) as client:
        auditor = client._auditor
        assert auditor is not None
        for prompt in PROMPTS:
            for sampling in SAMPLINGS:
                await client.generate(prompt, max_new_tokens=80, sampling=sampling)
            await heard(auditor, seconds=120)
        assert auditor.blocks_passed == auditor.blocks_heard > 150
        assert all(auditor.book.standing(node.peer).strikes == 0 for node in new_swarm.nodes)


DEVICES = [("cpu", "cpu")] + [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")] * torch.cuda.is_available()


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_many_honest_blocks_are_ties(quiet: None, dtype: str, devices: tuple[str, str]) -> None:
    """Nothing is mild or gross even before a third chain is asked, so nobody is struck; and d is no less than it must be."""
    found = margins.measure(resolve(str(embedded.TARGET)), dtype, count(500, 30_000), devices)
    print(found.dtype, found.devices, dict(found.blocks), f"{found.at_an_edge} choices at an edge of top-k or top-p")
    print(f"{found.differing} choices differ, by {max(found.behind):.3g} nats at most; d should be {found.calibrated:.3g}")
    assert set(found.blocks) == {Severity.TIE.name}
    assert found.calibrated <= found.tolerance
    assert found.differing or dtype == "fp32", "the machines computed alike, so nothing was tried"
