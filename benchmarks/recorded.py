"""What the embedded target answers, recorded: for replays, and for stages that only wait."""

from collections.abc import Sequence
from dataclasses import dataclass

from dsd_client.target_model import TargetModel
from dsd_core import embedded
from dsd_core.decoding.ids import TokenId
from dsd_core.embedded.continuations import continuations
from dsd_core.embedded.shapes import load_model


@dataclass(frozen=True)
class Text:
    """A prompt, and what the target answers."""

    prompt: tuple[TokenId, ...]
    answer: tuple[TokenId, ...]

    @property
    def tokens(self) -> tuple[TokenId, ...]:
        return self.prompt + self.answer


def recorded(prompts: Sequence[str], tokens: int) -> list[Text]:
    """What the embedded target answers, greedy, with so many tokens at most."""
    target = TargetModel.load(str(embedded.TARGET))
    asked = [target.tokens(prompt) for prompt in prompts]
    answered = continuations(load_model(embedded.TARGET), asked, tokens)
    return [Text(tuple(map(TokenId, head)), tuple(map(TokenId, body))) for head, body in zip(asked, answered, strict=True)]
