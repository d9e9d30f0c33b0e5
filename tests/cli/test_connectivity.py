"""``contiv connectivity`` and ``contiv explain`` as commands: options, formats, exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from contiv.cli.main import contiv
from tests.analysis.clusters import pod, policy, written

CONTIV = (sys.executable, "-m", "contiv.cli.main")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(contiv, [str(each) for each in arguments])


def answer(*arguments: object) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Web may reach the database on port 80; nobody else may."""
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]}
    return written(
        tmp_path / "shop",
        pod("x/web", node="n1", app="web"),
        pod("x/db", node="n2", app="db"),
        pod("y/other", node="n2"),
        policy("x/db", podSelector={"matchLabels": {"app": "db"}}, ingress=[rule]),
    )


def test_json_has_ports_pods_and_what_is_allowed(shop: Path) -> None:
    found = answer("connectivity", "-f", shop)
    assert found == {
        "ports": ["80/TCP"],
        "pods": ["x/db", "x/web", "y/other"],
        "allowed": [
            {"from": source, "to": to, "port": "80/TCP"}
            for source, to in (
                ("x/db", "x/db"),
                ("x/db", "x/web"),
                ("x/db", "y/other"),
                ("x/web", "x/db"),
                ("x/web", "x/web"),
                ("x/web", "y/other"),
                ("y/other", "x/web"),
                ("y/other", "y/other"),
            )
        ],
    }


def test_ports_sources_and_destinations_can_be_named(shop: Path) -> None:
    found = answer("connectivity", "-f", shop, "--port", "81/udp", "--port", "icmp", "--from", "x/*", "--to", "x/db")
    assert found["ports"] == ["81/UDP", "ICMP"]
    assert found["pods"] == ["x/db", "x/web"]
    assert {(each["from"], each["to"]) for each in found["allowed"]} == {("x/db", "x/db")}


def test_blocks_outside_show_with_their_name(shop: Path) -> None:
    found = answer("connectivity", "-f", shop, "--external", "203.0.113.0/24")
    assert found["external"] == ["ext:203.0.113.0/24"]
    from_outside = {each["to"] for each in found["allowed"] if each["from"] == "ext:203.0.113.0/24"}
    assert from_outside == {"x/web", "y/other"}


def test_the_table_is_a_matrix(shop: Path) -> None:
    result = run("connectivity", "-f", shop, "--port", "80/TCP", "--port", "81/TCP")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith((" x/", " y/"))]
    rows = {cells[0]: cells[1:] for cells in lines if len(cells) > 1}
    assert rows == {"x/db": ["all", "all", "all"], "x/web": ["80/TCP", "all", "all"], "y/other": ["–", "all", "all"]}
    assert "15 of 18 connections allowed" in result.stdout


def test_with_many_pods_the_table_has_a_line_a_source(tmp_path: Path) -> None:
    pods = [pod(f"x/p{number:02}") for number in range(14)]
    result = run("connectivity", "-f", written(tmp_path / "many", *pods), "--from", "x/p00", "--to", "x/*")
    assert "all others" in result.stdout
    result = run("connectivity", "-f", written(tmp_path / "many", *pods, policy("x/deny")), "--from", "x/p00")
    assert "–" in result.stdout


def test_csv_has_a_line_a_connection(shop: Path) -> None:
    result = run("connectivity", "-f", shop, "-o", "csv", "--to", "x/db")
    assert list(csv.reader(io.StringIO(result.stdout))) == [
        ["from", "to", "port", "extent"],
        ["x/db", "x/db", "80/TCP", "all"],
        ["x/web", "x/db", "80/TCP", "all"],
    ]


def test_dot_has_an_arrow_a_pair(shop: Path) -> None:
    result = run("connectivity", "-f", shop, "-o", "dot", "--external", "203.0.113.0/24")
    arrows = [line.strip() for line in result.stdout.splitlines() if "->" in line]
    assert '"x/web" -> "x/db" [label="80/TCP"];' in arrows
    assert not any(line.startswith('"y/other" -> "x/db"') for line in arrows)
    assert result.stdout.startswith("digraph connectivity {")
    assert result.stdout.rstrip().endswith("}")
    assert result.stdout.count("{") == result.stdout.count("}")


def test_a_difference_says_what_opens_and_what_closes(shop: Path, tmp_path: Path) -> None:
    rule = {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}}]}
    after = written(
        tmp_path / "after",
        pod("x/web", node="n1", app="web"),
        pod("x/db", node="n2", app="db"),
        pod("y/other", node="n2"),
        policy("x/db", podSelector={"matchLabels": {"app": "db"}}, ingress=[rule]),
    )
    assert answer("connectivity", "diff", shop, after) == {
        "ports": ["80/TCP"],
        "opened": [{"from": "y/other", "to": "x/db", "port": "80/TCP"}],
        "closed": [{"from": "x/web", "to": "x/db", "port": "80/TCP"}],
    }
    text = run("connectivity", "diff", shop, after).stdout
    assert [line.split()[0] for line in text.splitlines() if "x/db" in line] == ["opens", "closes"]
    assert run("connectivity", "diff", shop, after, "--exit-code").exit_code == 1
    same = run("connectivity", "diff", shop, shop, "--exit-code")
    assert (same.exit_code, same.stdout) == (0, "nothing opens, nothing closes\n")


def test_explain_names_policy_rule_and_line(shop: Path) -> None:
    text = run("explain", "x/web", "x/db", "--port", "80/TCP", "-f", shop).stdout
    assert "x/web (10.1.1.2) to x/db (10.1.2.2), 80/TCP: allowed" in text
    assert "x/db spec.ingress[0].from[0] ports[0]" in text
    assert "line " in text
    denied = answer("explain", "10.1.2.3", "x/db", "-f", shop)
    assert (denied["from"], denied["allowed"]) == ("y/other", False)
    assert denied["ingress"]["isolatedBy"] == ["x/db"]
    assert denied["steps"][-1]["rule"].startswith("deny any 0.0.0.0/0")


def test_what_is_wrong_with_an_object_is_said_and_the_answer_stands(tmp_path: Path) -> None:
    place = written(tmp_path / "bad", pod("x/a"), policy("x/in", ingress=[{"from": [{"ipBlock": {"cidr": "here"}}]}]))
    result = run("connectivity", "-f", place, "-o", "json", "--external", "192.0.2.0/24")
    assert result.exit_code == 0
    assert "x/in: spec.ingress[0].from[0].ipBlock.cidr" in result.stderr
    assert [each["from"] for each in json.loads(result.stdout)["allowed"]] == ["x/a", "x/a"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("connectivity", "-f", "nowhere"), 1, "manifests nowhere: not there"),
        (("connectivity", "-f", "{shop}", "--from", "x/nobody"), 1, "--from pod x/nobody: not in the cluster"),
        (("connectivity", "-f", "{shop}", "--external", "all"), 1, "--external all: no CIDR"),
        (("connectivity", "-f", "{shop}", "--port", "http"), 2, "--port http: no port"),
        (("connectivity", "-f", "{shop}", "--port", "0/TCP"), 2, "--port 0/TCP: no port"),
        (("connectivity", "-f", "{shop}", "--kubeconfig", "k"), 2, "-f and --kubeconfig"),
        (("connectivity", "--kubeconfig", "nowhere"), 2, "nowhere"),
        (("connectivity", "-f", "{shop}", "diff", "{shop}", "{shop}"), 2, "options of diff stand behind it"),
        (("explain", "x/web", "x/nobody", "-f", "{shop}"), 1, "pod x/nobody"),
    ],
)
def test_mistakes_end_with_one_line_and_a_code(shop: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    command = [*CONTIV, *(each.format(shop=shop) for each in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_trace_follows_a_service_to_its_backend(shop: Path) -> None:
    spec = {"clusterIP": "10.96.0.20", "selector": {"app": "db"}, "ports": [{"port": 5432, "targetPort": 80}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "x"}, "spec": spec}
    written(shop / "services", service)
    found = answer("trace", "-f", shop, "--from", "x/web", "--to", "10.96.0.20:5432/TCP")
    assert found["verdict"] == "delivered"
    assert (found["service"]["name"], found["service"]["chosen"]) == ("x/db", "10.1.2.2:80")
    assert [step["kind"] for step in found["steps"]][-1] == "end"
    assert found["to"] == "10.96.0.20:5432/TCP"
    assert answer("trace", "-f", shop, "--from", "10.1.2.3", "--to", "x/db:5432/TCP")["verdict"] == "denied"
    text = run("trace", "-f", shop, "--from", "x/web", "--to", "x/db:5432/TCP").stdout
    assert "is service x/db (cluster ip): to 10.1.2.2:80" in text
    assert answer("trace", "-f", shop, "--from", "x/web", "--to", "10.1.2.3/ICMP")["verdict"] == "delivered"


@pytest.mark.parametrize("target", ["10.96.0.20", "10.96.0.20:0/TCP", "10.96.0.20:80/QUIC", "here:80/TCP"])
def test_trace_names_a_wrong_target(shop: Path, target: str) -> None:
    result = run("trace", "-f", shop, "--from", "x/web", "--to", target)
    assert result.exit_code != 0
    assert f"--to {target.partition(':')[0]}" in f"{result.output}{result.exception}"
