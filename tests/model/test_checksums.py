"""Weights that are not what their publisher made are never served (R12 of the promises)."""

import hashlib
import random
import shutil
from pathlib import Path

import pytest

from dsd_core import embedded
from dsd_core.errors import InvalidWeights
from dsd_core.model import checksums
from dsd_core.model.checksums import CHECKSUMS, listed, of_blob, require_intact, write_checksums
from dsd_core.model.source import resolve
from dsd_core.model.span import Span
from tests.conftest import TinyModel

WEIGHTS = "model.safetensors"


@pytest.fixture
def listed_model(target: TinyModel, tmp_path: Path) -> Path:
    """A copy of the target with a list of its sums."""
    directory = tmp_path / "model"
    shutil.copytree(target.directory, directory)
    write_checksums(directory)
    return directory


def flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def test_a_whole_file_loads(listed_model: Path) -> None:
    Span.load(resolve(str(listed_model)), range(1, 2), device="cpu")


def test_a_flipped_bit_anywhere_is_refused_by_name(listed_model: Path) -> None:
    chance = random.Random(12)
    sound = (listed_model / WEIGHTS).read_bytes()
    for _ in range(40):
        (listed_model / WEIGHTS).write_bytes(flip(sound, chance))
        with pytest.raises(InvalidWeights, match=WEIGHTS):
            Span.load(resolve(str(listed_model)), range(1, 2), device="cpu")


def test_a_thousand_flips(listed_model: Path) -> None:
    chance = random.Random(13)
    sound = (listed_model / WEIGHTS).read_bytes()
    expected = listed(listed_model, WEIGHTS)
    assert expected == hashlib.sha256(sound).hexdigest()
    for _ in range(1000):
        (listed_model / WEIGHTS).write_bytes(flip(sound, chance))
        with pytest.raises(InvalidWeights, match=f"{WEIGHTS} is damaged: its SHA-256 is .{{64}}, and should be {expected}"):
            require_intact(listed_model / WEIGHTS, expected)


def test_a_file_that_ends_early(listed_model: Path) -> None:
    sound = (listed_model / WEIGHTS).read_bytes()
    (listed_model / WEIGHTS).write_bytes(sound[:-1])
    with pytest.raises(InvalidWeights, match=WEIGHTS):
        Span.load(resolve(str(listed_model)), range(1, 2), device="cpu")


def test_without_a_list_nobody_can_tell(listed_model: Path) -> None:
    """Said plainly in README: a flipped weight is a weight."""
    (listed_model / CHECKSUMS).unlink()
    weights = listed_model / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    Span.load(resolve(str(listed_model)), range(1, 2), device="cpu")


@pytest.mark.parametrize("text", ["", "abc  model.safetensors\n", f"{'0' * 64}  other.safetensors\n"])
def test_a_list_that_leaves_the_file_out(listed_model: Path, text: str) -> None:
    (listed_model / CHECKSUMS).write_text(text)
    with pytest.raises(InvalidWeights, match=f"no line for {WEIGHTS}"):
        listed(listed_model, WEIGHTS)


def test_a_list_that_is_not_text(listed_model: Path) -> None:
    (listed_model / CHECKSUMS).write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidWeights, match="cannot be read"):
        listed(listed_model, WEIGHTS)


def test_the_form_that_sha256sum_gives_binary_files(listed_model: Path) -> None:
    (listed_model / CHECKSUMS).write_text(f"{'a' * 64} *{WEIGHTS}\n")
    assert listed(listed_model, WEIGHTS) == "a" * 64


def test_a_file_of_the_hubs_cache_is_held_to_its_blobs_name(tmp_path: Path) -> None:
    blob = tmp_path / hashlib.sha256(b"weights").hexdigest()
    blob.write_bytes(b"weights")
    link = tmp_path / WEIGHTS
    link.symlink_to(blob)
    expected = of_blob(link)
    assert expected == blob.name
    require_intact(link, expected)
    blob.write_bytes(b"weighty")
    with pytest.raises(InvalidWeights, match="is damaged"):
        require_intact(link, expected)


def test_a_small_file_of_the_hubs_cache_has_no_sum(tmp_path: Path) -> None:
    (tmp_path / ("a" * 40)).write_bytes(b"{}")
    assert of_blob(tmp_path / ("a" * 40)) is None


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InvalidWeights, match="cannot read"):
        require_intact(tmp_path / WEIGHTS, "a" * 64)


@pytest.mark.parametrize("directory", [embedded.TARGET, embedded.DRAFTER], ids=lambda path: path.name)
def test_the_pair_that_ships_is_as_listed(directory: Path) -> None:
    expected = checksums.listed(directory, WEIGHTS)
    assert expected is not None
    require_intact(directory / WEIGHTS, expected)
