"""Flags over the environment over the file over defaults, and files that cannot be obeyed."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dsd_client.__main__ import cli as client_cli
from dsd_core.errors import UsageError
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_core.network.join_token import JoinToken
from dsd_core.network.swarm_secret import swarm_id
from dsd_core.settings import Program, config
from dsd_node.__main__ import cli as node_cli


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("DSD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "dsd").mkdir()
    return tmp_path / "dsd" / "config.toml"


def run(cli: click.Command, *arguments: str) -> str:
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False, standalone_mode=False)
    assert done.exception is None
    return done.stdout


def settings(*, cli: click.Command = client_cli) -> dict[str, Any]:
    return json.loads(run(cli, "config", "show", "--json"))  # type: ignore[no-any-return]


@click.group(cls=Program)
def program() -> None:
    """With a command that says what it was given."""


@program.command()
@click.option("--new-tokens", type=int, default=1)
@click.option("--join", multiple=True)
@click.option("--loud/--soft")
@click.option("--json", "as_json", is_flag=True)
def say(new_tokens: int, join: tuple[str, ...], loud: bool, as_json: bool) -> None:
    click.echo(f"{new_tokens} {join} {loud} {as_json}")


program.add_command(config)


def test_flags_over_environment_over_file_over_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(program, "say") == "1 () False False\n"
    file.write_text('[client]\nnew-tokens = 2\njoin = ["a", "b"]\nloud = true\n')
    assert run(program, "say") == "2 ('a', 'b') True False\n"
    monkeypatch.setenv("DSD_NEW_TOKENS", "3")
    monkeypatch.setenv("DSD_JOIN", "c d")
    monkeypatch.setenv("DSD_LOUD", "0")
    assert run(program, "say") == "3 ('c', 'd') False False\n"
    assert run(program, "say", "--new-tokens", "4", "--join", "e", "--loud") == "4 ('e',) True False\n"


def test_what_a_call_prints_is_up_to_the_call(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSD_JSON", "1")
    assert run(program, "say") == "1 () False False\n"
    file.write_text("[client]\njson = true\n")
    with pytest.raises(UsageError, match="knows no 'json'"):
        run(program, "say")


def test_one_text_is_a_list_of_one(file: Path) -> None:
    file.write_text('[client]\njoin = "127.0.0.1:4100"\n')
    assert run(program, "say") == "1 ('127.0.0.1:4100',) False False\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[client]\nnwe-tokens = 1", "did you mean new-tokens?"),
        ("[cleint]", "did you mean client?"),
        ("model = 'x'", "no table of the name 'model'"),
        ("client = 1", r"write \[client\] on a line of its own"),
        ("[client", "cannot be read"),
        ("[client]\nloud = 'yes'", "loud in .* must be true or false"),
        ("[client]\nnew-tokens = [1]", "new-tokens in .* must be one text or number"),
        ("[client]\nnew-tokens = true", "new-tokens in .* must be one text or number"),
        ("[client]\njoin = [[1]]", "join in .* must be a text, or several"),
    ],
)
def test_files_that_cannot_be_obeyed(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(UsageError, match=message) as raised:
        run(program, "say")
    assert str(file) in str(raised.value)


def test_a_wrong_value_is_clicks_to_refuse(file: Path) -> None:
    file.write_text("[client]\nnew-tokens = 'many'")
    with pytest.raises(click.BadParameter, match="not a valid integer"):
        CliRunner().invoke(program, ["say"], catch_exceptions=False, standalone_mode=False)


def test_origins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[client]\nseed = 7\n[node]\nlisten = '127.0.0.1:4200'\n")
    monkeypatch.setenv("DSD_MODEL", "some/model")
    ours = settings()
    assert ours["seed"] == {"value": 7, "origin": str(file)}
    assert ours["model"] == {"value": "some/model", "origin": "$DSD_MODEL"}
    assert ours["speculation"] == {"value": "streaming", "origin": "default"}
    assert "listen" not in ours
    theirs = settings(cli=node_cli)
    assert theirs["listen"] == {"value": "127.0.0.1:4200", "origin": str(file)}
    assert theirs["model"]["origin"] == "$DSD_MODEL"
    assert "seed" not in theirs


@pytest.mark.parametrize(("cli", "table"), [(client_cli, "client"), (node_cli, "node")])
def test_what_is_shown_is_a_file(file: Path, cli: Program, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSD_JOIN", "127.0.0.1:1 127.0.0.1:2")
    shown = run(cli, "config", "show", "--origin")
    assert "# $DSD_JOIN" in shown
    file.write_text(shown)
    monkeypatch.delenv("DSD_JOIN")
    assert tomllib.loads(shown)[table]["join"] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert settings(cli=cli)["join"] == {"value": ["127.0.0.1:1", "127.0.0.1:2"], "origin": str(file)}


def test_secrets_are_not_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = bytes(range(32))
    token = JoinToken(((Address("127.0.0.1", 1), Identity.ephemeral().peer_id),), swarm_id(secret), secret).encode()
    monkeypatch.setenv("DSD_API_KEY", "open sesame")
    monkeypatch.setenv("DSD_JOIN", token)
    shown = run(client_cli, "config", "show")
    assert "sesame" not in shown
    assert token not in shown
    assert token[:12] in shown
