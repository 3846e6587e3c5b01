"""The command line of a client. Nothing heavy is imported before there is something to do."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from dsd_client.commands.options import (
    AnswerOptions,
    Tolerances,
    with_answer_options,
    with_bench_options,
    with_swarm_options,
)
from dsd_core.log_options import with_log_options
from dsd_core.settings import Program, config

PROGRAM = "dsd-client"


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dsd", prog_name=PROGRAM)
def cli() -> None:
    """Ask a swarm of nodes that together hold a model.

    \b
    Examples:
      dsd-client demo                                       three nodes, an answer, a comparison; no network needed
      dsd-client generate --join 127.0.0.1:4100 "Once upon a time"
      dsd-client chat --join 127.0.0.1:4100 --join 127.0.0.1:4101
      dsd-client serve --join 127.0.0.1:4100                OpenAI's API and a page, on 127.0.0.1:4180

    \b
    Exit codes: 0 done, 1 failure, 2 usage, 3 no peers, 4 refused, 5 model not found, 6 timeout, 7 unsupported model,
    8 no such layers, 9 layers not covered, 10 prompt too long, 11 other vocabulary, 12 address in use, 13 peer lost,
    14 protocol error, 15 out of capacity, 16 damaged weights, 17 unsound library, 18 disk full,
    130 Ctrl-C.
    """


@cli.command()
@with_answer_options
@click.option("--logprobs", type=int, default=0, metavar="N", help="Report the target's N best tokens with each, up to 8.")
@click.option("--json", "form", flag_value="json", help="Print one object when done.")
@click.option("--json-lines", "form", flag_value="json-lines", help="Print an object for each chunk, then that one.")
@click.argument("prompt")
def generate(prompt: str, logprobs: int, form: str | None, **given: Any) -> None:
    """Complete PROMPT, raw text without a chat template."""
    options = AnswerOptions.parse(given)
    from dsd_client.commands.generate import generate
    from dsd_core import command

    command.run(generate(options, prompt, logprobs, form))


@cli.command()
@with_answer_options
@click.option("--system", metavar="TEXT", help="What the model is told before the first turn.")
def chat(system: str | None, **given: Any) -> None:
    """Talk with the model. /help lists what you can type besides."""
    options = AnswerOptions.parse(given)
    from dsd_client.commands.chat import chat

    chat(options, system)


@cli.command()
@with_bench_options
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="JSON lines: GSM8K, HumanEval, or strings.")
@click.option("--limit", type=click.IntRange(1), default=8, show_default=True, metavar="N", help="How many of the prompts.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="The table has medians.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Also write the figures and a plot there.")
@click.option("--tolerances", type=Tolerances(), default="1,3,5", show_default=True, metavar="NATS,...", help="Of `adaptive`.")
@click.option("--latency-factor", type=float, metavar="F", help="Of `adaptive`, 0 to 1. [default: as the latency says]")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
@click.argument("what", type=click.Choice(["modes", "adaptive"]), default="modes", metavar="[modes|adaptive]")
def bench(
    what: str,
    prompts: Path | None,
    limit: int,
    repeats: int,
    out: Path | None,
    tolerances: tuple[float, ...],
    latency_factor: float | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Time every mode of speculation on your swarm, in turns, on the same prompts; or what adaptive acceptance gains and loses.

    \b
    modes      off, blocking, streaming without and with branches. Without --lookahead, blocking gets its best K: a sweep
               finds it on half of the prompts, the other half is compared.
    adaptive   exact and adaptive streaming, for each of the tolerances, beside the late rule and a fixed tolerance: speed,
               nats given away, and, on GSM8K's questions or made-up ones (the default with the embedded target), how many
               answers are right.
    """
    options = AnswerOptions.parse({**given, "speculation": "all"})
    from dsd_client.commands.bench import Bench, bench, bench_adaptive
    from dsd_core import command

    asked = Bench(prompts, limit, repeats, out, as_json)
    command.run(bench(options, asked) if what == "modes" else bench_adaptive(options, asked, tolerances, latency_factor))


@cli.command()
@with_answer_options
@click.option("--host", default="127.0.0.1", show_default=True, metavar="H", help="Where to listen; elsewhere with a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=4180, show_default=True, metavar="P", help="0: any free one.")
@click.option("--api-key", envvar="DSD_API_KEY", metavar="KEY", help="What callers must show. [default: $DSD_API_KEY]")
@click.option("--concurrency", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Answers at a time.")
@click.option("--queue", type=click.IntRange(0), default=64, show_default=True, metavar="N", help="Answers that may wait.")
@click.option("--json", "as_json", is_flag=True, help="Print one object when ready.")
def serve(
    host: str, port: int, api_key: str | None, concurrency: int, queue: int, as_json: bool, **given: Any
) -> None:
    """Answer OpenAI's API over HTTP, with a page for the browser.

    The options of `generate` are what a request gets that does not say otherwise.
    """
    options = AnswerOptions.parse(given)
    from asyncio import CancelledError

    from dsd_client.commands.serve import serve
    from dsd_client.gateway.admission import AdmissionConfig
    from dsd_core import command

    with suppress(CancelledError):  # SIGTERM: to be told to stop is how a gateway ends
        command.run(serve(options, host, port, api_key, AdmissionConfig(concurrency, queue), as_json))


@cli.command()
@with_swarm_options
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
def status(
    join: tuple[str, ...], model: str | None, data_dir: str | None, insecure_loopback: bool, as_json: bool
) -> None:
    """Say who holds the model, how far and how busy they are. Leaves with 0 if all of its layers are there."""
    from dsd_client.commands.status import status
    from dsd_core import command, data_dirs

    kept_in = Path(data_dir) if data_dir else data_dirs.default("client")
    command.run(status(join, model, kept_in, insecure_loopback=insecure_loopback, as_json=as_json))


@cli.command()
@with_log_options
def demo() -> None:
    """Start three nodes, ask them with and without drafts, and compare."""
    from dsd_client.commands.demo import demo
    from dsd_core import command

    command.run(demo())


cli.add_command(config)


def main() -> None:
    """The `dsd-client` command."""
    from dsd_core import command

    command.main(cli, PROGRAM)


if __name__ == "__main__":
    main()
