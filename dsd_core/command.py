"""What both commands share: one way to run, and one way to fail."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import click

from dsd_core.errors import DsdError

Value = TypeVar("Value")

INTERRUPTED = 130
TERMINATED = 143


def main(command: click.Command, program: str, *, terminated: int = TERMINATED) -> NoReturn:
    """Run a command line. An error is one line on stderr and its own exit code; Ctrl-C leaves with 130, SIGTERM with
    `terminated`, and a reader of stdout that has gone away quietly with 1."""
    try:
        sys.exit(command.main(prog_name=program, standalone_mode=False) or 0)
    except DsdError as error:
        click.echo(f"{program}: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except asyncio.CancelledError:  # SIGTERM, and everything has been put away
        sys.exit(terminated)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        sys.exit(1)


def run(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Run a command's coroutine to its end, on uvloop where the platform has it. SIGTERM and SIGHUP cancel it."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(cancelled_by_sigterm(coroutine))


async def cancelled_by_sigterm(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Await it; SIGTERM and SIGHUP cancel whoever does, so that everything is put away."""
    task = asyncio.current_task()
    assert task is not None
    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await coroutine


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop
