"""A model with its optimisers: Muon for the matrices, AdamW for the rest, on a budget of wall-clock time."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen3ForCausalLM

from dsd_core.embedded.muon import Muon
from dsd_core.embedded.packing import Batch

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps tokens and weights, both [rows, length], to a scalar."""

_MATRIX_RATE: Final = 0.02
_OTHER_RATE: Final = 0.003
_WARMUP: Final = 0.02
_DECAY_FROM: Final = 0.6
_SAVE_EVERY_SECONDS: Final = 150.0


@dataclass
class Progress:
    """What has been spent and learnt so far, kept with the weights."""

    elapsed_seconds: float = 0.0
    num_steps: int = 0
    num_tokens: int = 0
    losses: list[float] = field(default_factory=list)


class Learner:
    """Trains `model` and keeps a checkpoint at `path`; call `resume` before `fit` to go on from there."""

    def __init__(self, model: Qwen3ForCausalLM, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.model, self.path, self.clock, self.progress = model, path, clock, Progress()
        named = list(model.named_parameters())
        self.muon = Muon(weight for name, weight in named if _is_matrix(name, weight))
        others = [weight for name, weight in named if not _is_matrix(name, weight)]
        self.adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)

    def fit(self, batches: Iterator[Batch], loss: Loss, minutes: float) -> None:
        """Learn until `minutes` have been spent in all, those before `resume` included; save now and then."""
        self.model.train()
        started = saved = self.clock() - self.progress.elapsed_seconds
        while self.progress.elapsed_seconds < 60 * minutes:
            self._step(next(batches), loss, rate(self.progress.elapsed_seconds / (60 * minutes)))
            now = self.clock()
            self.progress.elapsed_seconds = now - started
            if now - saved > _SAVE_EVERY_SECONDS:
                saved = now
                self.save()
        self.save()

    def save(self) -> None:
        """Write the checkpoint; an interrupted write leaves the old one."""
        fresh = self.path.with_suffix(".fresh")
        save_file(self._tensors(), fresh, metadata={"progress": json.dumps(vars(self.progress))})
        fresh.replace(self.path)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.path.exists():
            return
        with safe_open(self.path, framework="pt") as checkpoint:
            tensors = {name: checkpoint.get_tensor(name) for name in checkpoint.keys()}  # noqa: SIM118
            self.progress = Progress(**json.loads(checkpoint.metadata()["progress"]))
        self._restore_adam(tensors)
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(tensors[name])

    def _tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds, by name; views, not copies."""
        model = {f"model.{name}": weight.detach() for name, weight in self.model.named_parameters()}
        muon = {f"muon.{index}": velocity for index, velocity in enumerate(self.muon.velocity)}
        moments = self.adam.state_dict()["state"]
        adam = {f"adam.{index}.{name}": value for index, state in moments.items() for name, value in state.items()}
        return model | muon | adam

    def _restore_adam(self, tensors: dict[str, Tensor]) -> None:
        """AdamW keeps nothing before its first step, so there is nothing yet to copy into."""
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "adam":
                index, _, name = rest.partition(".")
                state[int(index)][name] = tensor
        self.adam.load_state_dict({"state": state, "param_groups": self.adam.state_dict()["param_groups"]})

    def _step(self, batch: Batch, loss: Loss, relative_rate: float) -> None:
        self.muon.lr = _MATRIX_RATE * relative_rate
        for group in self.adam.param_groups:
            group["lr"] = _OTHER_RATE * relative_rate
        value = loss(batch.tokens, batch.weights)
        value.backward()  # type: ignore[no-untyped-call]
        self.muon.step()
        self.adam.step()
        self.model.zero_grad()
        self._note(value.item(), batch.tokens.numel())

    def _note(self, loss: float, num_tokens: int) -> None:
        progress = self.progress
        progress.num_steps += 1
        progress.num_tokens += num_tokens
        progress.losses.append(loss)
        if progress.num_steps % 20 == 0:
            recent = sum(progress.losses[-20:]) / 20
            pace = progress.num_tokens / max(progress.elapsed_seconds, 1e-9)
            minutes = progress.elapsed_seconds / 60
            print(
                f"{minutes:5.1f} min  {progress.num_tokens / 1e6:6.2f} M tokens  loss {recent:.3f}  {pace:.0f}/s",
                flush=True,
            )


def rate(fraction: float) -> float:
    """Warm-up, plateau, linear decay: the share of the peak rate at `fraction` of the budget."""
    return min(1.0, fraction / _WARMUP, max(0.02, (1 - fraction) / (1 - _DECAY_FROM)))


def _is_matrix(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
