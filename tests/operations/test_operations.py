"""What is handed to operators: a unit that systemd reads, a dashboard and a table that name what is measured."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dsd_client.gateway.admission import Admission, AdmissionConfig
from dsd_client.gateway.metrics import Metrics as GatewayMetrics
from dsd_node.__main__ import cli
from dsd_node.metrics import Metrics as NodeMetrics

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "deploy/dsd-node.service").read_text()


def measured(exposition: bytes) -> dict[str, set[str]]:
    """The names of what can be asked for, by metric; labels may not have been seen yet."""
    families = [each for each in text_string_to_metric_families(exposition.decode()) if not each.name.endswith("_created")]
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {family.name: {family.name + suffix for suffix in suffixes[family.type]} for family in families}


OF_NODES = {name: of_it for name, of_it in measured(NodeMetrics().exposition()).items() if name.startswith("dsd_")}
OF_GATEWAYS = measured(GatewayMetrics(Admission(AdmissionConfig())).exposition())


def test_the_dashboard_asks_for_what_is_measured() -> None:
    panels = json.loads((ROOT / "deploy/grafana.json").read_text())["panels"]
    asked = [re.findall(r"\bdsd_\w+", target["expr"]) for panel in panels for target in panel["targets"]]
    names = {name for each in asked for name in each}
    assert names <= set().union(*OF_NODES.values(), *OF_GATEWAYS.values())
    assert [metric for metric, of_it in OF_NODES.items() if not names & of_it] == []


def test_the_documents_name_all_that_is_measured() -> None:
    named = set(re.findall(r"`(dsd_node_\w+)`", (ROOT / "docs/OPERATIONS.md").read_text()))
    assert {name.removesuffix("_total") for name in named} == set(OF_NODES)


def test_the_units_command_is_one() -> None:
    [command] = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    program, name, *options = command.split()
    assert program.endswith("/.venv/bin/dsd-node")
    cli.commands[name].make_context(name, options)


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here")
    unit = tmp_path / "dsd-node.service"
    unit.write_text(UNIT.replace("%h/dsd/.venv/bin/dsd-node", sys.executable))
    command = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    done = subprocess.run(command, env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
