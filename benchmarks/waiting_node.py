"""`dsd-node start`, but that its layers wait instead of computing: same service, sockets, codec and sessions.

    python -m benchmarks.waiting_node start --layers 0:2 --frame-ms 5 --node-ms 0.25
"""

from pathlib import Path

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Nodes for benchmarks."""


@cli.command()
@click.option("--model", metavar="DIR", help="Whose tokenizer and number of layers are used. [default: the embedded target]")
@click.option("--layers", metavar="A:B")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:0", show_default=True)
@click.option("--announce", metavar="HOST:PORT")
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--dtype", default="auto", hidden=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--frame-ms", type=float, default=5.0, show_default=True, help="tau0, of every frame.")
@click.option("--node-ms", type=float, default=0.25, show_default=True, help="tau1, of each node in it.")
@click.option("--text-seed", type=int, default=1, show_default=True, help="Of the text that is chosen.")
@click.option("--texts", type=click.Path(path_type=Path), metavar="FILE", help="Recorded texts, to be chosen where they lead.")
def start(
    model: str | None,
    layers: str | None,
    listen: str,
    announce: str | None,
    data_dir: Path | None,
    dtype: str,
    as_json: bool,
    frame_ms: float,
    node_ms: float,
    text_seed: int,
    texts: Path | None,
) -> None:
    """Serve a span that takes FRAME_MS + NODE_MS n for n nodes."""
    from benchmarks.waiting_model import RecordedModel, WaitingModel
    from benchmarks.waiting_span import StageTime, WaitingSpan
    from dsd_core import command, embedded, logs
    from dsd_core.network.address import Address
    from dsd_node.membership.place import Place
    from dsd_node.start import NodeConfig, serve

    def load(place: Place, layers: range) -> WaitingSpan:
        size = place.source.vocab_size
        text = RecordedModel.read(texts, text_seed, size) if texts else WaitingModel(text_seed, size)
        return WaitingSpan(place.source, layers, text, StageTime(frame_ms / 1e3, node_ms / 1e3))

    logs.configure()
    config = NodeConfig(
        model=model or str(embedded.TARGET),
        layers=layers,
        listen=Address.parse(listen),
        announce=Address.parse(announce) if announce else None,
        dtype=dtype,
        json=as_json,
        data_dir=data_dir,
    )
    command.run(serve(config, load))


if __name__ == "__main__":
    from dsd_core import command

    command.main(cli, "waiting_node", terminated=0)
