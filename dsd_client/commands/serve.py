"""`dsd-client serve`: the swarm behind OpenAI's API."""

import json
import sys
from typing import cast

from dsd_client.client import Client, ConversationOptions
from dsd_client.commands.options import AnswerOptions
from dsd_client.gateway.admission import AdmissionConfig
from dsd_client.gateway.gateway import Gateway, GatewayConfig
from dsd_client.gateway.server import require_key_beyond_loopback
from dsd_client.gateway.server import serve as serve_gateway
from dsd_core.network.http_server import listen


async def serve(
    options: AnswerOptions, host: str, port: int, api_key: str | None, admission: AdmissionConfig, as_json: bool
) -> None:
    """Until cancelled. Raises DsdError for whatever keeps the gateway from starting."""
    require_key_beyond_loopback(host, api_key)
    listener = listen(host, port)
    with listener:
        async with Client(**options.client) as client:
            config = GatewayConfig(
                api_key=api_key,
                max_new_tokens=options.max_new_tokens,
                stop=options.stop,
                sampling=options.sampling,
                options=cast(ConversationOptions, options.conversation),
                admission=admission,
            )
            gateway = Gateway(client, config)
            _say_ready(gateway, f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}", as_json)
            await serve_gateway(gateway, listener)


def _say_ready(gateway: Gateway, url: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"event": "ready", "url": url, "model": gateway.model}), flush=True)
    else:
        print(f"ready: {gateway.model} at {url}/v1, and a page at {url}", file=sys.stderr, flush=True)
