"""The command line of a node. Nothing heavy is imported before there is something to do."""

import click

PROGRAM = "dsd-node"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dsd", prog_name=PROGRAM)
def cli() -> None:
    """Serve a span of a model's layers to the swarm.

    \b
    Examples:
      dsd-node start                                        the embedded model, whole
      dsd-node start --model Qwen/Qwen3-8B --layers 0:18    the first half of a model from the hub
    """


@cli.command()
@click.option("--model", metavar="ID|DIR", help="Hugging Face model or directory. [default: the embedded target]")
@click.option("--layers", metavar="A:B", help="Serve the layers from A up to, not including, B. [default: all]")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:4100", show_default=True, help="Port 0 is any free port.")
@click.option("--announce", metavar="HOST:PORT", help="The address that others dial, if another. [default: --listen's]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def start(
    model: str | None,
    layers: str | None,
    listen: str,
    announce: str | None,
    device: str,
    dtype: str,
    as_json: bool,
    verbose: bool,
) -> None:
    """Load the layers, listen, and serve until Ctrl-C.

    Until peers have identities a node listens on loopback addresses only.
    """
    from dsd_core import command, embedded, logs
    from dsd_core.network.address import Address

    logs.configure(verbose=verbose)
    here = Address.parse(listen)
    here.require_loopback()
    there = Address.parse(announce) if announce else None
    from dsd_node.start import NodeConfig, serve  # torch, transformers and grpc: seconds

    config = NodeConfig(model or str(embedded.TARGET), layers, here, there, device, dtype, as_json)
    command.run(serve(config))


def main() -> None:
    """The `dsd-node` command."""
    from dsd_core import command

    command.main(cli, PROGRAM)


if __name__ == "__main__":
    main()
