# A node or a client on the CPU: `docker build --tag dsd . && docker run --rm dsd dsd-node --help`
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY constraints.txt .
# The build without CUDA comes from an index of its own; the next step finds it there and adds what it depends on.
RUN pip install --no-deps --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY dsd_core dsd_core
COPY dsd_node dsd_node
COPY dsd_client dsd_client
RUN pip install --constraint constraints.txt '.[telemetry]'

RUN useradd --create-home --uid 10001 dsd
USER dsd
WORKDIR /home/dsd
# What is mounted there takes over that it is dsd's: keys and whom a peer knows, and models of the hub.
RUN mkdir -p .local/share/dsd .cache/huggingface
EXPOSE 4100 4180 9100
CMD ["dsd-node", "start", "--listen", "0.0.0.0:4100"]
