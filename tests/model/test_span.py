"""Loading and running one span: what it accepts, what it refuses, what it costs."""

import dataclasses
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dsd_core.errors import (
    InvalidSpan,
    InvalidWeights,
    OutOfCapacity,
    PromptTooLong,
    ProtocolError,
    UnsupportedModel,
    UsageError,
)
from dsd_core.model import decoder, span
from dsd_core.model.source import resolve
from dsd_core.model.span import BYTES_A_CORE, Span, SpanInput
from dsd_core.model.weight_file import WeightFile
from tests.model.conftest import LAYERS, VOCABULARY, MakeTiny, Tiny, TreeSession, assert_same_scores

OpenSession = Callable[..., TreeSession]


@pytest.fixture
def whole(llama: Tiny) -> Span:
    return Span.load(llama.source, range(LAYERS))


def rows(model: Span, count: int = 3, **changes: object) -> SpanInput:
    """A prompt of some tokens, on a session of its own."""
    slots = np.arange(count)
    visible = np.tril(np.ones((count, count), dtype=bool))
    tokens = np.full(count, 5) if model.starts else None
    hidden = None if model.starts else torch.ones(count, model.hidden_size)
    prompt = SpanInput(model.reserve(16), slots, slots, visible, slots, tokens, hidden)
    return dataclasses.replace(prompt, **changes)  # type: ignore[arg-type]


def test_a_span_says_what_it_is(llama: Tiny) -> None:
    first, last = Span.load(llama.source, range(0, 1)), Span.load(llama.source, range(1, LAYERS))
    assert (first.starts, first.ends, last.starts, last.ends) == (True, False, False, True)
    assert (first.hidden_size, first.vocab_size, first.dtype) == (32, VOCABULARY, torch.float32)
    assert first.layers == range(0, 1)
    assert first.device == torch.device("cpu") or torch.cuda.is_available()


def test_a_small_span_leaves_the_other_cores_alone_in_its_own_thread(llama: Tiny) -> None:
    span = Span.load(llama.source, range(4))

    def small_span() -> int:
        torch.set_num_threads(4)
        span.use_few_cores()
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(small_span).result() == 1
        span.weight_bytes = 3 * BYTES_A_CORE
        assert thread.submit(small_span).result() == 3
    assert torch.get_num_threads() == 1, "of this thread, as before"


def test_a_span_holds_the_weights_of_its_layers_only(llama: Tiny) -> None:
    parts = [Span.load(llama.source, layers) for layers in (range(0, 1), range(1, 3), range(3, 4))]
    weights = sum(weight.nbytes for weight in llama.model.parameters())
    assert sum(part.weight_bytes for part in parts) == weights
    assert parts[1].weight_bytes == 2 * sum(weight.nbytes for weight in llama.model.model.layers[1].parameters())


def test_only_the_tensors_of_the_span_are_read(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    files: list[WeightFile] = []

    def watch(file: WeightFile, name: str, into: torch.Tensor) -> None:
        names.append(name)
        files.append(file)
        read(file, name, into)

    read = WeightFile.read
    monkeypatch.setattr(WeightFile, "read", watch)
    middle = Span.load(llama.source, range(1, 3))
    assert {name.split(".")[2] for name in names} == {"1", "2"}
    assert files[0].bytes_read == middle.weight_bytes


def test_shards_without_layers_of_the_span_are_not_needed(
    make_tiny: MakeTiny, open_session: OpenSession, tokens: list[int]
) -> None:
    tiny = make_tiny("qwen3", save={"max_shard_size": "20KB"})
    source = tiny.source
    assert len(set(source.files.values())) > 3
    _, scores = open_session(source).feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens))
    needed = {file for name, file in source.files.items() if ".layers.1." in name}
    for file in set(source.files.values()) - needed:
        (tiny.directory / file).unlink()
    Span.load(source, range(1, 2))
    with pytest.raises(InvalidWeights, match=r"lacks model-.*, which its index names"):
        Span.load(source, range(2, LAYERS))


@pytest.mark.parametrize("tie", [True, False])
def test_the_last_span_has_its_head(tie: bool, make_tiny: MakeTiny, open_session: OpenSession, tokens: list[int]) -> None:
    tiny = make_tiny("llama", tie_word_embeddings=tie)
    _, scores = open_session(tiny.source).feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens))


def test_a_tied_head_takes_no_memory_beside_its_embedding(make_tiny: MakeTiny) -> None:
    tiny = make_tiny("llama", tie_word_embeddings=True)
    model = Span.load(tiny.source, range(LAYERS))
    assert model.weight_bytes == sum(weight.nbytes for weight in tiny.model.parameters())
    assert Span.load(tiny.source, range(1, LAYERS)).weight_bytes < model.weight_bytes


def test_a_head_in_the_checkpoint_comes_before_a_tie_in_the_config(
    make_tiny: MakeTiny, open_session: OpenSession, tokens: list[int]
) -> None:
    """As in transformers: the config is wrong then."""
    tiny = make_tiny("llama")
    config = tiny.directory / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    assert tiny.source.config.tie_word_embeddings
    _, scores = open_session(tiny.source).feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens))


def test_a_session_of_several_spans_gives_whole_rows_in_a_batch(whole: Span) -> None:
    alone = [whole.forward([rows(whole, count)])[0] for count in (2, 3)]
    together = whole.forward([rows(whole, 2), rows(whole, 3)])
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))
    assert together[1].shape == (3, whole.hidden_size)


def test_progress_ends_at_the_total(llama: Tiny) -> None:
    calls: list[tuple[int, int]] = []
    model = Span.load(llama.source, range(LAYERS), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (model.weight_bytes, model.weight_bytes)
    assert calls == sorted(calls)


@pytest.mark.parametrize("layers", [range(2, 2), range(3, 2), range(-1, 2), range(0, 5), range(0, 4, 2)])
def test_layers_that_the_model_lacks(llama: Tiny, layers: range) -> None:
    with pytest.raises(InvalidSpan, match="has the layers 0:4"):
        Span.load(llama.source, layers)


def test_devices_and_dtypes_by_name(llama: Tiny) -> None:
    source = llama.source
    assert Span.load(source, range(1), device="cpu", dtype="bf16").dtype == torch.bfloat16
    assert Span.load(source, range(1), device="cpu", dtype="float16").dtype == torch.float16
    with pytest.raises(UsageError, match="no dtype 'int8'"):
        Span.load(source, range(1), dtype="int8")
    with pytest.raises(UsageError, match="no device 'abacus'"):
        Span.load(source, range(1), device="abacus")


def test_auto_is_fp32_on_a_cpu_and_the_checkpoints_dtype_elsewhere(make_tiny: MakeTiny) -> None:
    source = make_tiny("llama", dtype=torch.bfloat16).source
    assert span.choose_dtype("auto", torch.device("cpu"), source) == torch.float32
    assert span.choose_dtype("auto", torch.device("cuda"), source) == torch.bfloat16


def test_a_bf16_checkpoint_is_served_in_fp32(make_tiny: MakeTiny, open_session: OpenSession, tokens: list[int]) -> None:
    tiny = make_tiny("llama", dtype=torch.bfloat16)
    _, scores = open_session(tiny.source).feed_run(tokens, None)
    tiny.model.float()
    assert_same_scores(scores, tiny.logits(tokens))


def test_logits_only_where_the_span_ends(llama: Tiny) -> None:
    with pytest.raises(ValueError, match="do not end the model"):
        Span.load(llama.source, range(0, 2)).logits(torch.zeros(1, 32))


@pytest.mark.parametrize("tokens", [[VOCABULARY], [-1], []])
def test_token_ids_that_no_embedding_has(whole: Span, tokens: list[int]) -> None:
    with pytest.raises(ProtocolError, match="token ids below 97"):
        whole.forward([rows(whole, len(tokens), tokens=np.array(tokens, dtype=np.int64), positions=np.arange(1))])


@pytest.mark.parametrize("hidden", [None, torch.zeros(3, 31), torch.zeros(2, 32), torch.full((3, 32), torch.nan)])
def test_hidden_states_that_no_stage_sends(llama: Tiny, hidden: torch.Tensor | None) -> None:
    last = Span.load(llama.source, range(1, LAYERS))
    with pytest.raises(ProtocolError, match="finite hidden states of size 32"):
        last.forward([rows(last, hidden=hidden)])


def test_more_slots_than_reserved(whole: Span) -> None:
    with pytest.raises(OutOfCapacity, match="reserved 16 slots and uses 17"):
        whole.forward([rows(whole, slot_positions=np.zeros(17, dtype=np.int64))])


def test_positions_past_the_ropes_frequencies(make_tiny: MakeTiny) -> None:
    tiny = make_tiny("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    model = Span.load(tiny.source, range(LAYERS))
    model.forward([rows(model, positions=np.arange(253, 256))])
    with pytest.raises(PromptTooLong, match="serves 256 positions"):
        model.forward([rows(model, positions=np.arange(254, 257))])


def test_values_out_of_range_leave_nothing_behind(make_tiny: MakeTiny) -> None:
    """A NaN in a freed slot would spoil every later row of its session, masked or not."""
    tiny = make_tiny("llama", dtype=torch.float16)
    model = Span.load(tiny.source, range(1, LAYERS), dtype="fp16")
    with torch.inference_mode():
        model._decoder.base.layers[1].self_attn.v_proj.weight.mul_(60000)
    prompt = rows(model, hidden=torch.full((3, 32), 60000.0))
    with pytest.raises(UnsupportedModel, match=r"left the range of torch\.float16; serve this model with --dtype bf16"):
        model.forward([prompt])
    assert all(bool((values == 0).all()) for layer in prompt.kv._layers for values in layer)


def test_a_span_that_does_not_fit_is_refused_before_it_is_read(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "available_bytes", lambda device: 1000)
    with pytest.raises(OutOfCapacity, match="1000 are left; choose fewer layers"):
        Span.load(llama.source, range(1))


def test_a_missing_tensor_is_named(llama: Tiny, tmp_path: Path) -> None:
    directory = copied(llama, tmp_path)
    rewrite(directory, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))
    source = resolve(str(directory))
    Span.load(source, range(0, 2))
    with pytest.raises(InvalidWeights, match=r"lacks the tensor model\.layers\.2\.mlp\.up_proj\.weight"):
        Span.load(source, range(2, 4))


def test_a_missing_head_is_named(llama: Tiny, tmp_path: Path) -> None:
    directory = copied(llama, tmp_path)
    rewrite(directory, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(InvalidWeights, match=r"lacks the tensor lm_head\.weight"):
        Span.load(resolve(str(directory)), range(2, 4))


def test_a_tensor_of_another_shape_is_named(llama: Tiny, tmp_path: Path) -> None:
    directory = copied(llama, tmp_path)
    rewrite(directory, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(33)}))
    with pytest.raises(InvalidWeights, match=r"model\.norm\.weight .* has the shape \[33\], but its config asks for \[32\]"):
        Span.load(resolve(str(directory)), range(2, 4))


def test_quantized_tensors_are_refused(llama: Tiny, tmp_path: Path) -> None:
    directory = copied(llama, tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    rewrite(directory, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(UnsupportedModel, match=r"q_proj\.weight is stored as I8"):
        Span.load(resolve(str(directory)), range(0, 1))


def copied(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.directory, tmp_path / "copy"))


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
