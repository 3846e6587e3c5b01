"""A decoder with some layers only: what it consists of, and the memory that loading it takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dsd_core.errors import UnsupportedModel
from dsd_core.model.decoder import load_decoder
from tests.model.conftest import LAYERS, MakeTiny, Tiny

CPU = torch.device("cpu")

LOADING = """
import json, pathlib, sys
from dsd_core.model.source import resolve
from dsd_core.model.span import Span

def status(line):
    return int(pathlib.Path("/proc/self/status").read_text().split(line + ":")[1].split()[0]) * 1024

small, large = map(resolve, sys.argv[1:])
Span.load(small, range(1, 2), device="cpu")  # so that everything is imported
before = status("VmRSS")
span = Span.load(large, range(1, 3), device="cpu", dtype="fp32")
print(json.dumps({"weights": span.weight_bytes, "resident": status("VmRSS") - before, "peak": status("VmHWM") - before}))
"""


def test_a_middle_span_has_neither_embedding_nor_norm_nor_head(llama: Tiny) -> None:
    decoder = load_decoder(llama.source, range(1, 3), torch.float32, CPU, None)
    assert isinstance(decoder.base.embed_tokens, nn.Identity)
    assert isinstance(decoder.base.norm, nn.Identity)
    assert len(decoder.base.layers) == 2
    assert decoder.head is None


def test_buffers_are_those_of_the_whole_model(tiny: Tiny) -> None:
    """They are in no checkpoint: rotary frequencies, and the factor that some families scale embeddings by."""
    decoder = load_decoder(tiny.source, range(LAYERS), torch.float32, CPU, None)
    expected = dict(tiny.model.base_model.named_buffers())
    buffers = {name.replace(".original.", "."): buffer for name, buffer in decoder.base.named_buffers()}
    assert buffers.keys() == expected.keys()
    assert all(torch.equal(buffers[name], expected[name]) for name in expected)


def test_a_buffer_that_transformers_does_not_fill_is_refused(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(llama.model.base_model), "_init_weights", lambda model, module: None)
    with pytest.raises(UnsupportedModel, match=r"left LlamaRotaryEmbedding\.inv_freq empty"):
        load_decoder(llama.source, range(1), torch.float32, CPU, None)


def test_parameters_are_those_of_the_whole_model(tiny: Tiny) -> None:
    decoder = load_decoder(tiny.source, range(LAYERS), torch.float32, CPU, None)
    expected = dict(tiny.model.base_model.named_parameters())
    # The last MLP has ours around it (asked_rows.py).
    parameters = {name.replace("mlp.mlp.", "mlp."): each for name, each in decoder.base.named_parameters()}
    assert parameters.keys() == expected.keys()
    assert all(torch.equal(parameters[name], expected[name]) for name in expected)
    assert not any(parameter.requires_grad for parameter in parameters.values())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell resident memory")
def test_loading_takes_the_spans_weights_and_little_more(llama: Tiny, make_tiny: MakeTiny) -> None:
    shape = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 8, "num_key_value_heads": 8}
    large = make_tiny("llama", **shape, head_dim=128, dtype=torch.bfloat16)
    command = [sys.executable, "-c", LOADING, str(llama.directory), str(large.directory)]
    memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert memory["weights"] > 100e6
    matrix, libraries = 1024 * 3072 * 4, 32e6  # what libraries of mathematics keep once they have multiplied
    assert memory["resident"] < memory["weights"] + libraries
    assert memory["peak"] < memory["weights"] + libraries + 2 * matrix  # one is tried in another layout
