"""The command line of a node. Nothing heavy is imported before there is something to do."""

import click

from dsd_core.log_options import with_log_options
from dsd_core.settings import NodeProgram, config

PROGRAM = "dsd-node"
GIB = 1 << 30


@click.group(cls=NodeProgram, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dsd", prog_name=PROGRAM)
def cli() -> None:
    """Serve a span of a model's layers to the swarm.

    \b
    Examples:
      dsd-node start                                        the embedded model, as much of it as fits
      dsd-node start --join TOKEN                           the swarm's model, the layers that it lacks
      dsd-node start --model Qwen/Qwen3-8B --layers 0:18    the first half of a model from the hub
      dsd-node start --role drafter                         a small model that drafts for clients without one
    """


@cli.command()
@click.option("--model", metavar="ID|DIR", help="Hugging Face model or directory. [default: the swarm's, or the embedded one]")
@click.option("--layers", metavar="A:B|auto", help="The layers from A up to, not including, B. [default: auto]")
@click.option("--memory", type=click.FloatRange(0, min_open=True), metavar="GIB", help="Use no more. [default: what is free]")
@click.option(
    "--role", type=click.Choice(["target", "drafter"]), default="target", show_default=True, help="Verify, or draft for others."
)
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:4100", show_default=True, help="Port 0 is any free port.")
@click.option("--announce", metavar="HOST:PORT", help="The address that others dial, if another. [default: --listen's]")
@click.option("--join", multiple=True, metavar="ADDRESS|TOKEN", help="A peer of the swarm to join. [default: the last swarm]")
@click.option("--private", is_flag=True, help="Start a swarm for those alone who hold its token.")
@click.option("--no-lan", is_flag=True, help="Neither look for peers on the LAN nor be found there.")
@click.option("--data-dir", metavar="DIR", help="Where its key is kept, and whom it knows. [default: the user's own]")
@click.option("--peer-share", type=float, default=0.25, show_default=True, help="Of the node's memory, the most for one peer.")
@click.option("--insecure-loopback", is_flag=True, help="No TLS; for programs of this machine alone.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True)
@click.option("--metrics", metavar="HOST:PORT", help="Answer Prometheus there, over plain HTTP. [default: nowhere]")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")
@with_log_options
def start(
    model: str | None,
    layers: str | None,
    memory: float | None,
    role: str,
    listen: str,
    announce: str | None,
    join: tuple[str, ...],
    private: bool,
    no_lan: bool,
    data_dir: str | None,
    peer_share: float,
    insecure_loopback: bool,
    device: str,
    dtype: str,
    metrics: str | None,
    as_json: bool,
) -> None:
    """Load the layers, listen, and serve until Ctrl-C.

    The ready line has a join token, for --join of other nodes and of dsd-client: addresses and keys of this node and of those
    it knows. Whoever is joined once need not be named again.
    """
    from pathlib import Path

    from dsd_core import command, data_dirs
    from dsd_core.membership.record import Role
    from dsd_core.network.address import Address

    here = Address.parse(listen)
    if insecure_loopback:
        here.require_loopback()
    there = Address.parse(announce) if announce else None
    watched = Address.parse(metrics) if metrics else None
    from dsd_node.start import NodeConfig, serve  # torch, transformers and grpc: seconds

    node = NodeConfig(
        model=model,
        layers=None if layers == "auto" else layers,
        role=Role(role),
        memory=None if memory is None else int(memory * GIB),
        listen=here,
        announce=there,
        device=device,
        dtype=dtype,
        json=as_json,
        # One for each port: several nodes of one machine are several peers.
        data_dir=Path(data_dir) if data_dir else data_dirs.default(f"node-{here.port}"),
        insecure_loopback=insecure_loopback,
        peer_share=peer_share,
        join=join,
        private=private,
        lan=not no_lan,
        metrics=watched,
    )
    command.run(serve(node))


@cli.command()
@click.option("--model", metavar="ID|DIR", help="Hugging Face model or directory. [default: the embedded one]")
@click.option("--memory", type=click.FloatRange(0, min_open=True), metavar="GIB", help="Use no more. [default: what is free]")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:4100", show_default=True, help="As for `start`.")
@click.option("--announce", metavar="HOST:PORT", help="The address that others dial, if another. [default: --listen's]")
@click.option("--join", multiple=True, metavar="ADDRESS|TOKEN", help="Peers to ask. [default: the last swarm]")
@click.option("--data-dir", metavar="DIR", help="As for `start`.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@with_log_options
@click.pass_context
def doctor(
    ctx: click.Context,
    model: str | None,
    memory: float | None,
    listen: str,
    announce: str | None,
    join: tuple[str, ...],
    data_dir: str | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Say what would keep `start`, with the same options, from serving, and what to do about it.

    Peers that are known are asked to dial us back. Leaves with 1 if something is wrong.
    """
    from pathlib import Path

    from dsd_core import command, data_dirs
    from dsd_core.network.address import Address

    here = Address.parse(listen)
    there = Address.parse(announce) if announce else None
    from dsd_node.doctor import doctor  # torch, transformers and grpc: seconds
    from dsd_node.start import NodeConfig

    node = NodeConfig(
        model=model,
        layers=None,
        memory=None if memory is None else int(memory * GIB),
        listen=here,
        announce=there,
        device=device,
        dtype=dtype,
        json=as_json,
        data_dir=Path(data_dir) if data_dir else data_dirs.default(f"node-{here.port}"),
        join=join,
    )
    if not command.run(doctor(node)):
        ctx.exit(1)


@cli.command()
@click.argument("peer", metavar="[ADDRESS|TOKEN]", default="127.0.0.1:4100")
@click.option("--insecure-loopback", is_flag=True, help="No TLS; for nodes that were started so.")
def health(peer: str, insecure_loopback: bool) -> None:
    """Ask a node whether it serves; 127.0.0.1:4100 unless another is named. Leaves with 0 if it does.

    A private swarm's node answers only to a token.
    """
    from dsd_core import command
    from dsd_node.health_check import require_healthy

    command.run(require_healthy(peer, insecure_loopback=insecure_loopback))


cli.add_command(config)


def main() -> None:
    """The `dsd-node` command."""
    from dsd_core import command

    command.main(cli, PROGRAM, terminated=0)  # to be told to stop is how a node ends


if __name__ == "__main__":
    main()
