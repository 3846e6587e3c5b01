"""Where options come from besides the command line: flags over DSD_* variables over the user's config.toml over defaults."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from dsd_core.errors import UsageError

TABLES = ("client", "node")
"""Of the file: one for each program."""
_PER_CALL = {"json", "json-lines", "help", "version"}
"""What a call prints is up to the call."""
_SECRET = {"api-key"}


def config_file() -> Path:
    """Where the user's settings are, if there are any."""
    if sys.platform == "win32":
        home = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "dsd" / "config.toml"


class Program(click.Group):
    """A command line. `--max-new-tokens` of any of its commands is also $DSD_MAX_NEW_TOKENS, and max-new-tokens in the file."""

    table = "client"
    """Of the file."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        for option in settable(cmd).values():
            option.envvar = option.envvar or variable(option)
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        """Raises UsageError for a file that cannot be obeyed."""
        given = read(config_file(), self)
        ctx.default_map = {
            name: {option.name: given[key] for key, option in settable(command).items() if key in given}
            for name, command in self.commands.items()
        }
        return super().invoke(ctx)

    @property
    def options(self) -> dict[str, click.Option]:
        """Those that can be set, by their keys in the file."""
        return {key: option for command in reversed(list(self.commands.values())) for key, option in settable(command).items()}


class NodeProgram(Program):
    table = "node"


def settable(command: click.Command) -> dict[str, click.Option]:
    """The options of a command that the file and the environment may set, by their keys."""
    options = {key_of(option): option for option in command.params if isinstance(option, click.Option)}
    return {key: option for key, option in options.items() if key not in _PER_CALL}


def key_of(option: click.Option) -> str:
    return max(option.opts, key=len).removeprefix("--")


def variable(option: click.Option) -> str:
    return "DSD_" + key_of(option).upper().replace("-", "_")


# -- the file ----------------------------------------------------------------------------------------------------------


def read(path: Path, program: Program) -> dict[str, Any]:
    """What a program's table says, by key, in the form that click wants. Raises UsageError."""
    import tomllib

    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; repair it, or move it away") from None
    for name in content:
        _require_known(name, TABLES, f"{path} has no table of the name {name!r}")
    table = content.get(program.table, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {program.table} is a table; write [{program.table}] on a line of its own")
    options = program.options
    for key in table:
        _require_known(key, options, f"{path}: [{program.table}] knows no {key!r}")
    return {key: _value(value, options[key], f"{path}: {key} in [{program.table}]") for key, value in table.items()}


def _require_known(name: str, known: Mapping[str, Any] | tuple[str, ...], problem: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        raise UsageError(f"{problem}; {f'did you mean {near[0]}?' if near else 'it may have ' + ', '.join(sorted(known))}")


def _value(value: Any, option: click.Option, where: str) -> Any:
    if option.is_flag:
        return _require(value, bool, where, "true or false")
    if option.multiple:
        values = value if isinstance(value, list) else [value]
        return [_require(each, str | int | float, where, "a text, or several in brackets") for each in values]
    return _require(value, str | int | float, where, "one text or number")


def _require(value: Any, kind: Any, where: str, wanted: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where} is {value!r}; it must be {wanted}")
    return value


# -- config show -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """An option's value as the commands would have it now."""

    key: str
    value: Any
    """None where there is none."""
    origin: str


@click.group("config", no_args_is_help=True)
def config() -> None:
    """What the options are when they are not given, and where that comes from."""


@config.command()
@click.option("--origin", is_flag=True, help="Say of each setting where it comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_context
def show(ctx: click.Context, origin: bool, as_json: bool) -> None:
    """Print all settings, in the form of config.toml. Secrets are not shown."""
    top = ctx.find_root()
    assert isinstance(top.command, Program)
    settings = list(_settings(top, top.command))
    if as_json:
        click.echo(json.dumps({each.key: {"value": each.value, "origin": each.origin} for each in settings}))
        return
    click.echo(f"# {config_file()}\n[{top.command.table}]")
    for setting in settings:
        line = f"# {setting.key} =" if setting.value in (None, []) else f"{setting.key} = {_as_toml(setting.value)}"
        click.echo(f"{line:<48}# {setting.origin}" if origin else line)


def _settings(top: click.Context, program: Program) -> Iterator[Setting]:
    contexts = {
        name: command.make_context(name, [], parent=top, resilient_parsing=True) for name, command in program.commands.items()
    }
    for key in sorted(program.options):
        name = next(name for name, command in program.commands.items() if key in settable(command))
        option = settable(program.commands[name])[key]
        assert option.name is not None
        source = contexts[name].get_parameter_source(option.name)
        yield Setting(key, _shown(option, contexts[name].params[option.name]), _origin(source, option))


def _origin(source: click.core.ParameterSource | None, option: click.Option) -> str:
    match source:
        case click.core.ParameterSource.ENVIRONMENT:
            return f"${option.envvar}"
        case click.core.ParameterSource.DEFAULT_MAP:
            return str(config_file())
        case _:
            return "default"


def _shown(option: click.Option, value: Any) -> Any:
    """As it is written in JSON and TOML. The token of a private swarm is its secret."""
    if value is not None and key_of(option) in _SECRET:
        return "(set)"
    if isinstance(value, tuple):
        shown = [_shown(option, each) for each in value]
        return shown if option.multiple else ",".join(map(str, shown))
    if isinstance(value, Path):
        return str(value)
    if key_of(option) == "join" and isinstance(value, str):
        from dsd_core.network.join_token import JoinToken

        return f"{value[:12]}..." if JoinToken.looks_like_one(value) else value
    return value


def _as_toml(value: Any) -> str:
    """JSON's texts, numbers, truth values and lists are TOML's."""
    return json.dumps(value, ensure_ascii=False)
