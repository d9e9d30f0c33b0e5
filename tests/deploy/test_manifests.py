"""deploy/*.yaml against the code: command lines, configuration, paths, ports, and what the API makes of it all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml
from kubernetes import client

from contiv.cli.main import contiv
from contiv.cni.model import VERSIONS
from contiv.linux.netns import NAMED
from contiv.vpp.lifecycle import VHOST_NET
from tests.deploy.conftest import Real, needs_kubectl, needs_real
from tests.deploy.manifests import DEPLOY, NAMESPACE, Container, configured, container, containers, documents, of_kind

OURS = [each for each in containers() if each.command[0] == "contiv"]
VSWITCH, STN = container("contiv-vswitch/vswitch"), container("contiv-stn/stn")
ETCD, INSTALL = container("contiv-etcd/etcd"), container("contiv-vswitch/install-cni")
CLUSTER_WIDE = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}


def options(each: Container) -> dict[str, Any]:
    """The options of a command line as the real parser reads them, without running anything."""
    name, *rest = each.command[1:]
    return {"subcommand": name, **contiv.commands[name].make_context(name, rest).params}


def test_every_process_of_the_system_is_started_by_a_command_line_that_parses():
    assert [options(each)["subcommand"] for each in OURS] == ["crd", "ksr", "stn", "init"]
    with pytest.raises(click.UsageError):
        options(Container("", {"command": ["contiv", "ksr", "--no-such"]}, {}))


def test_a_node_is_known_by_its_name_in_kubernetes():
    assert options(VSWITCH)["node"] == "$(NODE_NAME)"
    (variable,) = VSWITCH.spec["env"]
    assert (variable["name"], variable["valueFrom"]["fieldRef"]["fieldPath"]) == ("NODE_NAME", "spec.nodeName")


@pytest.mark.parametrize("each", OURS, ids=str)
def test_the_configuration_is_where_the_command_line_says(each: Container):
    path = Path(options(each)["config_path"])
    name = each.mounts[str(path.parent)]["configMap"]["name"]
    assert path.name in of_kind("ConfigMap")[name]["data"]


@pytest.mark.parametrize("each", [each for each in OURS if each.owner != STN.owner], ids=str)
def test_the_files_for_etcd_are_those_of_the_clients_secret(each: Container):
    etcd = configured().etcd
    folder = str(Path(etcd.ca_file).parent)
    assert [etcd.ca_file, etcd.cert_file, etcd.key_file] == [f"{folder}/{n}" for n in ("ca.crt", "tls.crt", "tls.key")]
    assert each.mounts[folder]["secret"]["secretName"] == "contiv-etcd-client"


def test_etcd_listens_where_the_configuration_looks_for_it():
    flags = dict(word.removeprefix("--").split("=", 1) for word in ETCD.command[1:])
    assert configured().etcd.endpoints == (flags["advertise-client-urls"],)
    port = flags["advertise-client-urls"].rpartition(":")[2]
    assert flags["listen-client-urls"] == f"https://0.0.0.0:{port}"
    assert [each["containerPort"] for each in ETCD.spec["ports"]] == [int(port)]
    assert [each["port"] for each in of_kind("Service")["contiv-etcd"]["spec"]["ports"]] == [int(port)]
    assert flags["data-dir"] in ETCD.host_paths
    secret = {path: v["secret"]["secretName"] for path, v in ETCD.mounts.items() if "secret" in v}
    files = [flags[name] for name in ("trusted-ca-file", "cert-file", "key-file")]
    assert secret == {"/etc/contiv-etcd": "contiv-etcd-server"}
    assert files == [f"/etc/contiv-etcd/{name}" for name in ("ca.crt", "tls.crt", "tls.key")]
    assert flags["client-cert-auth"] == "true"
    probed = [ETCD.spec[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")]
    assert {f"http://{each['host']}:{each['port']}" for each in probed} == {flags["listen-metrics-urls"]}


@pytest.mark.parametrize("each", [VSWITCH, STN], ids=str)
def test_vswitch_and_stn_see_the_nodes_own_directories(each: Container):
    config = configured()
    shared = {config.run_dir, config.state_dir, config.vpp.run_dir, str(Path(config.stn_socket_file).parent)}
    assert {path: path for path in shared}.items() <= each.host_paths.items()
    assert each.pod["hostNetwork"]
    assert each.pod["hostPID"]


def test_the_vswitch_reaches_namespaces_of_pods_and_devices():
    (mount,) = (m for m in VSWITCH.spec["volumeMounts"] if m["mountPath"] == "/run/netns")
    assert mount["mountPropagation"] == "HostToContainer"
    assert Path("/var/run/netns") == NAMED, "/var/run is a link to /run, in the image as on the node"
    assert VSWITCH.host_paths["/run/netns"] == "/run/netns"
    assert VSWITCH.host_paths[str(Path(VHOST_NET).parent)] == "/dev"


def test_probes_ask_where_processes_answer():
    assert VSWITCH.spec["readinessProbe"]["httpGet"]["path"] == "/readiness"
    asked = {
        str(each): {"{host}:{port}".format(**each.spec[name]["httpGet"]) for name in each.spec if "Probe" in name}
        for each in OURS
    }
    leaders = {str(each): {options(each)["metrics_address"]} for each in OURS if "metrics_address" in options(each)}
    assert asked == {**leaders, str(VSWITCH): {configured().rest_listen}, str(STN): set()}
    ports = [address for addresses in asked.values() for address in addresses]
    assert len(ports) == len(set(ports)), "all of them share the node's addresses"


def test_the_plugins_configuration_leads_to_the_agent():
    path = Path(INSTALL.command[3])
    written = json.loads(of_kind("ConfigMap")["contiv"]["data"][path.name])
    (plugin,) = written["plugins"]
    assert plugin["type"] == Path(INSTALL.command[1]).name
    assert plugin["agentSocket"] == f"{configured().run_dir}/cni.sock"
    assert {written["cniVersion"], *written["cniVersions"]} <= set(VERSIONS)
    assert INSTALL.mounts[str(path.parent)]["configMap"]["name"] == "contiv"
    assert INSTALL.host_paths == {INSTALL.command[2]: "/opt/cni/bin", INSTALL.command[4]: "/etc/cni/net.d"}


def test_everything_is_in_the_namespace_and_names_only_what_is_there():
    for document in documents():
        expected = None if document["kind"] in CLUSTER_WIDE else NAMESPACE
        assert document["metadata"].get("namespace") == expected, document["metadata"]["name"]
    accounts = of_kind("ServiceAccount")
    for each in containers():
        name = each.pod["serviceAccountName"]
        assert name in accounts
        mounted = {mount["name"] for c in containers() if c.pod == each.pod for mount in c.spec["volumeMounts"]}
        assert mounted == {volume["name"] for volume in each.pod["volumes"]}, str(each)
        bound = any(name == s["name"] for b in of_kind("ClusterRoleBinding").values() for s in b["subjects"])
        assert each.pod.get("automountServiceAccountToken", True) == bound, "a token for who has rights, and no other"


def test_the_kustomization_has_all_but_what_is_opted_into():
    listed = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
    files = {str(file.relative_to(DEPLOY)) for file in DEPLOY.rglob("*.yaml")}
    assert set(listed) == files - {"kustomization.yaml", "stn.yaml"}


def test_one_address_is_to_be_filled_in():
    (endpoint,) = configured().etcd.endpoints
    api = of_kind("ConfigMap")["kubernetes-api"]["data"]
    assert urlsplit(endpoint).netloc.partition(":")[0] == api["KUBERNETES_SERVICE_HOST"] == "CONTROL_PLANE_ADDRESS"
    for each in OURS:
        told = [source["configMapRef"]["name"] for source in each.spec.get("envFrom", ())]
        assert told == (["kubernetes-api"] if each.owner in ("contiv-ksr", "contiv-crd") else [])


def take(document: dict[str, Any]) -> None:
    """Have the official client's model of a kind take a document; ValueError for a field that is none or lacks."""
    getattr(client, f"V1{document['kind']}")(**document)


@pytest.mark.parametrize("document", documents(), ids=lambda d: f"{d['kind']}/{d['metadata']['name']}")
def test_the_api_knows_every_field(document: dict[str, Any]):
    take(document)


@pytest.mark.parametrize("spec", [{"containers": [{"name": "a", "securityContext": {"privilegd": True}}]}, {}])
def test_a_field_that_the_api_has_not_or_that_lacks_is_found(spec: dict[str, Any]):
    with pytest.raises(ValueError, match="containers"):
        take({"kind": "Pod", "spec": spec})


@needs_kubectl
def test_kustomize_builds_the_set():
    built = subprocess.run(["kubectl", "kustomize", str(DEPLOY)], check=True, capture_output=True, text=True)
    names = {(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(built.stdout)}
    here = {(each["kind"], each["metadata"]["name"]) for each in documents()}
    assert names == here - {("DaemonSet", "contiv-stn")}


@needs_real
async def test_a_real_api_server_takes_them_all(real: Real):
    dry = ("apply", "--server-side", "--dry-run=server")
    said = real.kubectl(*dry, "-k", str(DEPLOY)) + real.kubectl(*dry, "-f", str(DEPLOY / "stn.yaml"))
    assert len(said.splitlines()) == len(documents())
