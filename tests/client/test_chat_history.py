"""The prompts of a chat: each goes on where the last answer ended, token for token."""

from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from dsd_client.chat_history import ChatHistory
from dsd_client.target_model import TargetModel
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.model.shape import ModelShape
from tests.conftest import build_tokenizer

END = 0
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(params=["plain", "template"])
def target(request: pytest.FixtureRequest) -> TargetModel:
    tokenizer = build_tokenizer()
    if request.param == "template":
        tokenizer.chat_template = TEMPLATE
    return TargetModel("tiny", shape(tokenizer), tokenizer, frozenset({END}), SamplingParams())  # type: ignore[arg-type]


def shape(tokenizer: Any) -> ModelShape:
    return ModelShape("", num_layers=4, hidden_size=32, vocab_size=len(tokenizer), max_positions=512)


def tokens(target: TargetModel, text: str) -> list[int]:
    return list(target.tokenizer(text)["input_ids"])


def text_of(target: TargetModel, ids: list[int]) -> str:
    text: str = target.tokenizer.decode(ids, skip_special_tokens=False)
    return text


@pytest.mark.parametrize("said", [" fine.", "fine", "  \n fine \n", "🙂 naïve", "", " "], ids=repr)
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut off"])
def test_a_prompt_extends_the_one_before_and_its_answer(target: TargetModel, said: str, ended: bool) -> None:
    history = ChatHistory(target, "be kind")
    first = history.prompt("hello there")
    # An answer in tokens that no tokenizer would choose: what counts is what the stages hold.
    answer = [token for character in said for token in tokens(target, character)]
    history.answered(said, answer + [END] * ended)
    second = history.prompt("and now?")
    assert second[: len(first) + len(answer)] == first + answer
    history.answered(" good", tokens(target, " good"))
    third = history.prompt("bye")
    assert third[: len(second)] == second
    assert "be kind" in text_of(target, first)
    for part in ("hello there", "and now?", "bye", " good", said):
        assert part in text_of(target, third)


def test_the_prompts_read_as_a_conversation(target: TargetModel) -> None:
    history = ChatHistory(target, "be kind")
    history.prompt("hello")
    history.answered(" hi", [*tokens(target, " hi"), END])
    text = text_of(target, history.prompt("  bye  "))
    if target.tokenizer.chat_template:
        assert text == "[system]be kind<|end|>\n[user]hello<|end|>\n[assistant] hi<|end|>\n[user]  bye  <|end|>\n[assistant]"
    else:
        assert text == "be kind\nUser: hello\nAssistant: hi\nUser: bye\nAssistant:"


@pytest.mark.parametrize("joined", [True, False], ids=["one token too far", "exactly"])
def test_a_stop_text_is_not_said_twice(joined: bool) -> None:
    """The tokens of the stop text were committed, but the next turn writes it itself."""
    tokenizer = build_tokenizer()
    if joined:
        tokenizer.add_tokens([".\nUser"])
    target = TargetModel("tiny", shape(tokenizer), tokenizer, frozenset({END}), SamplingParams())  # type: ignore[arg-type]
    history = ChatHistory(target)
    assert history.stop == ("\nUser:",)
    first = history.prompt("hello")
    answer = tokens(target, " the fox.\nUser:")
    history.answered(" the fox.", answer)
    second = history.prompt("bye")
    assert text_of(target, second) == "User: hello\nAssistant: the fox.\nUser: bye\nAssistant:"
    shared = len(tokens(target, " the fox"))
    assert second[: len(first) + shared] == first + answer[:shared]


def test_with_a_template_no_text_is_a_stop_text() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    target = TargetModel("tiny", shape(tokenizer), tokenizer, frozenset(), SamplingParams())
    assert ChatHistory(target).stop == ()


def test_a_template_that_rewrites_what_was_said() -> None:
    """Such as one that trims answers: then the prompt is what the template says, whatever was held before."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("m['content']", "m['content'] | trim")
    target = TargetModel("tiny", shape(tokenizer), tokenizer, frozenset({END}), SamplingParams())  # type: ignore[arg-type]
    history = ChatHistory(target)
    history.prompt("hello")
    history.answered("  hi", tokens(target, "  hi"))
    prompt = history.prompt("bye")
    assert text_of(target, prompt) == "[user]hello<|end|>\n[assistant]hi<|end|>\n[user]bye<|end|>\n[assistant]"
    assert prompt == tokens(target, text_of(target, prompt))


def test_what_is_forgotten_is_not_sent(target: TargetModel) -> None:
    history = ChatHistory(target, "be kind")
    first = history.prompt("hello")
    history.answered(" hi", tokens(target, " hi"))
    history.forget()
    assert history.prompt("hello") == first
    history.forget_last_turn()
    assert history.messages == []
    assert history.prompt("hello") == first


def test_a_turn_without_answer_is_forgotten_alone(target: TargetModel) -> None:
    history = ChatHistory(target)
    history.prompt("hello")
    history.answered(" hi", tokens(target, " hi"))
    history.prompt("too long")
    history.forget_last_turn()
    text = text_of(target, history.prompt("bye"))
    assert "too long" not in text
    assert "hello" in text


def test_special_tokens_come_once(target: TargetModel) -> None:
    class Beginning:
        """A tokenizer that puts a token of its own before a text."""

        def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
            self._tokenizer = tokenizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [7] * add_special_tokens + list(self._tokenizer(text)["input_ids"])}

    if target.tokenizer.chat_template:
        pytest.skip("a template writes them itself")
    history = ChatHistory(replace(target, tokenizer=Beginning(target.tokenizer)))
    first = history.prompt("hello")
    history.answered(" hi", tokens(target, " hi"))
    second = history.prompt("bye")
    assert (first[0], first.count(7), second.count(7)) == (7, first[1:].count(7) + 1, first.count(7))
