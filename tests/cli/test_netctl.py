"""netctl against a real etcd and an agent's REST views served on a Unix socket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
from aiohttp import web

from contiv import metrics
from contiv.model import keys, kube
from contiv.model.node import Attachment, NodeClaim, NodeStatus
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.policy.test_handler import World
from tests.policy.test_state import cluster, labelled, policy


def a_status(name: str, number: int, rest: str) -> NodeStatus:
    return NodeStatus(
        id=number,
        name=name,
        version="0.1.0",
        dataplane="26.06",
        started_at="2026-01-01T00:00:00+00:00",
        rest=rest,
        pod_subnet=f"10.1.{number}.0/24",
        pod_cluster_subnet="10.1.0.0/16",
        host_subnet=f"172.30.{number}.0/24",
        host_address=f"172.30.{number}.2",
        uplink=f"192.168.16.{number}/24",
        vxlan=f"192.168.30.{number}/24",
    )


async def fill(server: EmbeddedEtcd, rest: str) -> None:
    attachment = Attachment(
        container_id="abcdef0123456789",
        if_name="eth0",
        netns="/var/run/netns/x",
        pod_namespace="default",
        pod_name="web",
        pod_uid="u",
        address="10.1.1.2",
        interface="pod0",
        pod_mac="02:fe:00:00:00:01",
        vpp_mac="02:ff:00:00:00:01",
    )
    async with await Etcd.connect([server.endpoint]) as etcd:
        for number, name in ((1, "a"), (2, "b")):
            claim = NodeClaim(id=number, name=name, uplink=f"192.168.16.{number}/24")
            await etcd.put(keys.node_id(number), msgspec.json.encode(claim))
        await etcd.put(keys.node_status("a"), msgspec.json.encode(a_status("a", 1, rest)))
        await etcd.put(keys.attachment("a", "abcdef0123456789/eth0"), msgspec.json.encode(attachment))


async def netctl(server: EmbeddedEtcd, *arguments: str) -> subprocess.CompletedProcess[str]:
    import asyncio

    argv = [sys.executable, "-m", "contiv.cli.netctl", "--etcd", server.endpoint, *arguments]
    return await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60)


async def test_nodes_pods_and_ipam_tell_what_etcd_holds_also_of_a_node_that_is_down(server: EmbeddedEtcd) -> None:
    await fill(server, "http://127.0.0.1:1")
    nodes = json.loads((await netctl(server, "nodes", "-o", "json")).stdout)
    assert [(row["id"], row["node"], row["agent"]) for row in nodes] == [(1, "a", "up"), (2, "b", "down")]
    pods = json.loads((await netctl(server, "pods", "a", "-o", "json")).stdout)
    assert [(row["pod"], row["ip"], row["node"]) for row in pods] == [("web", "10.1.1.2", "a")]
    ipam = json.loads((await netctl(server, "ipam", "-o", "json")).stdout)
    assert [(row["node"], row["podCIDR"], row["podsAttached"]) for row in ipam] == [("a", "10.1.1.0/24", 1)]
    table = (await netctl(server, "nodes")).stdout
    assert "192.168.16.2/24" in table
    assert "down" in table


async def test_status_and_diff_ask_the_agent_where_it_says_that_it_is(server: EmbeddedEtcd, tmp_path: Path) -> None:
    async def status(_: web.Request) -> web.Response:
        return web.json_response({"synced": True, "problems": {}, "unsettled": {}, "pods": 1, "objects": 7})

    async def diff(_: web.Request) -> web.Response:
        return web.json_response({"operations": [{"verb": "create", "key": "vpp/route/0/10.1.1.2/32"}], "pending": {}})

    routes = [web.get("/contiv/v1/status", status), web.get("/contiv/v1/diff", diff)]
    async with metrics.serve(f"unix:{tmp_path}/rest.sock", metrics.registry(), routes=routes) as address:
        await fill(server, address)
        (row,) = json.loads((await netctl(server, "status", "a", "-o", "json")).stdout)
        assert row["state"] == "synced"
        differing = await netctl(server, "diff", "a")
        assert differing.returncode == 1
        assert "vpp/route/0/10.1.1.2/32" in differing.stdout


async def test_policies_tells_who_is_isolated_why_by_which_lines_and_what_is_wrong(
    server: EmbeddedEtcd, tmp_path: Path
) -> None:
    bad = policy("bad", subject=labelled(app="web"), ingress=(kube.IngressRule(peers=(kube.PolicyPeer(),)),))
    node = World(*cluster(bad))
    node.attach("web", 2)
    node.attach("stranger", 9)

    async def report(request: web.Request) -> web.Response:
        told = node.handler.report(lines="lines" in request.query)
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")

    routes = [web.get("/contiv/v1/policies", report)]
    async with metrics.serve(f"unix:{tmp_path}/rest.sock", metrics.registry(), routes=routes) as address:
        await fill(server, address)
        asked = await netctl(server, "policies", "-o", "json")
        stranger, known = json.loads(asked.stdout)
        assert (known["pod"], known["isolated"], known["policies"]) == ("a/web", "Ingress", "a/bad")
        assert stranger["isolated"] == "Ingress Egress (pod not known yet)"
        assert "1 faults" in asked.stderr
        (fault,) = json.loads((await netctl(server, "policies", "a", "--faults", "-o", "json")).stdout)
        assert (fault["node"], fault["name"], fault["field"]) == ("a", "bad", "spec.ingress[0].from[0]")
        lines = json.loads((await netctl(server, "policies", "a", "--lines", "-o", "json")).stdout)
        last = [each["line"] for each in lines if (each["on"], each["side"]) == ("a/web", "output")][-1]
        assert last.startswith("deny")


async def test_an_agent_that_is_away_is_said_to_be_so_and_an_unknown_node_is_named(server: EmbeddedEtcd) -> None:
    await fill(server, "http://127.0.0.1:1")
    (row,) = json.loads((await netctl(server, "status", "a", "-o", "json")).stdout)
    assert row["state"] == "unreachable"
    unknown = await netctl(server, "diff", "nowhere")
    assert unknown.returncode == 1
    assert "nowhere" in unknown.stderr
    assert "up are: a" in unknown.stderr


def test_an_etcd_that_asks_who_we_are_is_told_by_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "contiv.yaml"
    config.write_text(f"etcd: {{endpoints: ['unix://{tmp_path}/e'], username: u, passwordFile: {tmp_path}/none}}\n")
    argv = [sys.executable, "-m", "contiv.cli.netctl", "--config", str(config), "nodes"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("configuration: etcd.passwordFile = ")


async def test_a_record_that_cannot_be_read_is_named(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint]) as client:
        await client.put(keys.node_id(1), b"[]")
    argv = [sys.executable, "-m", "contiv.cli.netctl", "--etcd", server.endpoint, "nodes"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert keys.node_id(1) in line
