import torch

from dsd_core.embedded.muon import Muon, orthogonalise


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 16), (1, 32, 8), (1, 8, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(*shape)))
        assert values.min() > 0.3
        assert values.max() < 1.4


def test_steps_go_downhill() -> None:
    torch.manual_seed(0)
    goal, weight = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    muon = Muon([weight])
    muon.lr = 0.3
    for _ in range(20):
        weight.grad = (weight - goal).detach()
        muon.step()
    assert (weight - goal).norm() < 0.5 * goal.norm()
