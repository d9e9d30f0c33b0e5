"""What KSR, the demo and its kubelet stand-in rely on, on the emulated and on a real kube-apiserver alike."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from contiv.emulator.kube import EmulatedKube
from tests.emulator.kube.api import (
    APPLY,
    CONFIG_MAPS,
    JSON_PATCH,
    PODS,
    POLICIES,
    SERVICES,
    SLICES,
    STRATEGIC,
    Api,
    Doc,
    Refused,
    config_map,
    pod,
    policy,
    service,
)
from tests.ksr import apiserver

pytestmark = pytest.mark.asyncio(loop_scope="module")
REAL = pytest.param("real", marks=[pytest.mark.kube, apiserver.needed])
EVERY_EVENT_WITHIN_S = 10.0


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["emulated", REAL])
async def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    directory: Path = tmp_path_factory.mktemp("kube")
    if request.param == "emulated":
        async with EmulatedKube() as server, Api(server.url) as client:
            yield client
        return
    async with apiserver.real(directory) as cluster:
        config = yaml.safe_load(Path(cluster.kubeconfig).read_text())
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        url, user = config["clusters"][0]["cluster"]["server"], config["users"][0]["user"]
        async with Api(url, token=user["token"], tls=tls) as client:
            yield client


async def refused(call: object) -> Refused:
    with pytest.raises(Refused) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_discovery_lists_what_the_project_reads(api: Api):
    core = {each["name"] for each in (await api.get("/api/v1"))["resources"]}
    assert {"namespaces", "pods", "pods/status", "pods/binding", "nodes", "nodes/status", "services"} <= core
    names = {each["name"] for each in (await api.get("/apis"))["groups"]}
    assert {"networking.k8s.io", "discovery.k8s.io", "coordination.k8s.io", "apiextensions.k8s.io"} <= names
    assert int((await api.get("/version"))["minor"].rstrip("+")) >= 30


async def test_a_new_object_gets_identity_version_and_time(api: Api):
    made = await api.post(CONFIG_MAPS, {"metadata": {"generateName": "gen-"}, "data": {"a": "b"}})
    metadata = made["metadata"]
    assert metadata["name"].startswith("gen-")
    assert len(metadata["name"]) == len("gen-") + 5
    assert metadata["namespace"] == "default"
    assert int(metadata["resourceVersion"]) > 0
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith("Z")
    assert (made["kind"], made["apiVersion"]) == ("ConfigMap", "v1")


async def test_errors_carry_code_reason_and_details(api: Api):
    absent = await refused(api.get(f"{PODS}/absent"))
    assert (absent.code, absent.reason) == (404, "NotFound")
    assert absent.status["message"] == 'pods "absent" not found'
    assert absent.status["details"] == {"name": "absent", "kind": "pods"}
    absent = await refused(api.get(f"{POLICIES}/absent"))
    assert absent.status["details"] == {"name": "absent", "group": "networking.k8s.io", "kind": "networkpolicies"}
    await api.post(CONFIG_MAPS, config_map("twice"))
    twice = await refused(api.post(CONFIG_MAPS, config_map("twice")))
    assert (twice.code, twice.reason) == (409, "AlreadyExists")
    homeless = await refused(api.post("/api/v1/namespaces/nowhere/configmaps", config_map("x")))
    assert (homeless.code, homeless.status["message"]) == (404, 'namespaces "nowhere" not found')
    assert (await refused(api.get("/apis/nothing.example/v1/things"))).code == 404


async def test_a_stale_update_conflicts_and_a_current_one_does_not(api: Api):
    made = await api.post(CONFIG_MAPS, config_map("locked", a="1"))
    changed = await api.put(f"{CONFIG_MAPS}/locked", made | {"data": {"a": "2"}})
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    stale = await refused(api.put(f"{CONFIG_MAPS}/locked", made | {"data": {"a": "3"}}))
    assert (stale.code, stale.reason) == (409, "Conflict")
    assert (await api.get(f"{CONFIG_MAPS}/locked"))["data"] == {"a": "2"}


async def test_an_update_that_changes_nothing_makes_no_version(api: Api):
    made = await api.post(CONFIG_MAPS, config_map("calm", a="1"))
    same = await api.put(f"{CONFIG_MAPS}/calm", made)
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    patched = await api.patch(f"{CONFIG_MAPS}/calm", {"data": {"a": "1"}})
    assert patched["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_the_patch_types(api: Api):
    path = f"{PODS}/patched"
    await api.post(PODS, pod("patched", labels={"a": "1", "b": "2"}))
    merged = await api.patch(path, {"metadata": {"labels": {"a": None, "c": "3"}}})
    assert merged["metadata"]["labels"] == {"b": "2", "c": "3"}
    listed = await api.patch(path, [{"op": "add", "path": "/metadata/labels/d", "value": "4"}], form=JSON_PATCH)
    assert listed["metadata"]["labels"] == {"b": "2", "c": "3", "d": "4"}
    wanted = {"spec": {"containers": [{"name": "main", "image": "demo:2"}]}}
    strategic = await api.patch(path, wanted, form=STRATEGIC)
    (container,) = strategic["spec"]["containers"]
    assert (container["image"], container["ports"]) == ("demo:2", [{"containerPort": 80, "protocol": "TCP"}])
    failed = await refused(api.patch(path, [{"op": "test", "path": "/metadata/name", "value": "x"}], form=JSON_PATCH))
    assert failed.code == 422


async def test_strategic_patches_of_status_merge_conditions_and_addresses_by_type(api: Api):
    await api.post("/api/v1/nodes", {"metadata": {"name": "typed"}})
    status = "/api/v1/nodes/typed/status"
    first = {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "typed"}],
        "conditions": [{"type": "Ready", "status": "False"}],
    }
    await api.patch(status, {"status": first}, form=STRATEGIC)
    second = {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.2"}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}],
    }
    node = await api.patch(status, {"status": second}, form=STRATEGIC)
    assert {(each["type"], each["address"]) for each in node["status"]["addresses"]} == {
        ("InternalIP", "192.0.2.2"),
        ("Hostname", "typed"),
    }
    assert {(each["type"], each["status"]) for each in node["status"]["conditions"]} == {
        ("Ready", "True"),
        ("DiskPressure", "False"),
    }


async def test_server_side_apply_owns_drops_and_conflicts(api: Api):
    path = f"{CONFIG_MAPS}/applied"
    wanted: Doc = {"apiVersion": "v1", "kind": "ConfigMap", **config_map("applied", a="1", b="2")}
    await api.patch(path, wanted, form=APPLY, fieldManager="one")
    del wanted["data"]["b"]
    assert (await api.patch(path, wanted, form=APPLY, fieldManager="one"))["data"] == {"a": "1"}
    wanted["data"]["a"] = "9"
    clash = await refused(api.patch(path, wanted, form=APPLY, fieldManager="two"))
    assert (clash.code, clash.reason) == (409, "Conflict")
    assert clash.fields == [("FieldManagerConflict", ".data.a")]
    forced = await api.patch(path, wanted, form=APPLY, fieldManager="two", force="true")
    assert forced["data"] == {"a": "9"}


async def test_status_and_spec_are_changed_by_their_own_endpoints(api: Api):
    await api.post(PODS, pod("two-faced"))
    path = f"{PODS}/two-faced"
    by_spec = await api.patch(path, {"status": {"phase": "Running"}})
    assert by_spec["status"]["phase"] == "Pending"
    status = {"phase": "Running", "podIPs": [{"ip": "10.1.1.9"}]}
    by_status = await api.patch(f"{path}/status", {"status": status, "spec": {"nodeName": "elsewhere"}})
    assert by_status["status"]["phase"] == "Running"
    assert by_status["status"]["podIP"] == "10.1.1.9"
    assert "nodeName" not in by_status["spec"]


async def test_a_pod_is_bound_once(api: Api):
    await api.post(PODS, pod("placed"))
    binding = {"metadata": {"name": "placed"}, "target": {"kind": "Node", "name": "n1"}}
    await api.post(f"{PODS}/placed/binding", binding)
    placed = await api.get(f"{PODS}/placed")
    assert placed["spec"]["nodeName"] == "n1"
    again = await refused(api.post(f"{PODS}/placed/binding", binding))
    assert again.code == 409


async def test_a_bound_pod_goes_when_its_kubelet_says_so(api: Api):
    await api.post(PODS, pod("graceful", node="n1"))
    path = f"{PODS}/graceful"
    marked = await api.delete(path)
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert (await api.get(path))["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]
    gone = await api.delete(path, {"gracePeriodSeconds": 0, "preconditions": {"uid": marked["metadata"]["uid"]}})
    assert gone["metadata"]["name"] == "graceful"
    assert (await refused(api.get(path))).code == 404


async def test_a_pod_without_a_node_goes_at_once(api: Api):
    await api.post(PODS, pod("homeless"))
    await api.delete(f"{PODS}/homeless")
    assert (await refused(api.get(f"{PODS}/homeless"))).code == 404


async def test_a_deletion_with_another_uid_is_refused(api: Api):
    await api.post(PODS, pod("precious"))
    wrong = await refused(api.delete(f"{PODS}/precious", {"preconditions": {"uid": "someone-else"}}))
    assert (wrong.code, wrong.reason) == (409, "Conflict")


async def test_finalizers_hold_an_object(api: Api):
    held = config_map("held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await api.post(CONFIG_MAPS, held)
    await api.delete(f"{CONFIG_MAPS}/held")
    assert "deletionTimestamp" in (await api.get(f"{CONFIG_MAPS}/held"))["metadata"]
    await api.patch(f"{CONFIG_MAPS}/held", {"metadata": {"finalizers": None}})
    assert (await refused(api.get(f"{CONFIG_MAPS}/held"))).code == 404


async def test_pages_show_one_version(api: Api):
    path = "/api/v1/namespaces/paged/configmaps"
    await api.post("/api/v1/namespaces", {"metadata": {"name": "paged"}})
    for index in range(7):
        await api.post(path, config_map(f"p{index}"))
    first = await api.get(path, limit=3)
    assert first["metadata"]["remainingItemCount"] == 4
    await api.delete(f"{path}/p5")
    await api.post(path, config_map("p9"))
    second = await api.get(path, limit=3, **{"continue": first["metadata"]["continue"]})
    third = await api.get(path, limit=3, **{"continue": second["metadata"]["continue"]})
    pages = (first, second, third)
    assert [each["metadata"]["name"] for page in pages for each in page["items"]] == [f"p{i}" for i in range(7)]
    assert len({page["metadata"]["resourceVersion"] for page in pages}) == 1
    assert not third["metadata"].get("continue")
    assert "kind" not in first["items"][0]


async def test_lists_by_version(api: Api):
    await api.post(CONFIG_MAPS, config_map("versioned"))
    version = await api.version()
    await api.delete(f"{CONFIG_MAPS}/versioned")

    async def names(**query: str) -> set[str]:
        return {each["metadata"]["name"] for each in (await api.get(CONFIG_MAPS, **query))["items"]}

    assert "versioned" in await names(resourceVersion=version, resourceVersionMatch="Exact")
    assert "versioned" not in await names()
    future = str(int(version) + 1_000_000)
    late = await refused(api.get(CONFIG_MAPS, resourceVersion=future, resourceVersionMatch="NotOlderThan"))
    assert (late.code, late.reason) == (504, "Timeout")
    assert (await refused(api.get(CONFIG_MAPS, resourceVersionMatch="Exact"))).code in (400, 422)


async def test_selectors(api: Api):
    for name, labels in (("s1", {"tier": "web"}), ("s2", {"tier": "db"}), ("s3", {})):
        await api.post(PODS, pod(name, labels=labels, node="sel" if name == "s1" else ""))

    async def names(**query: str) -> list[str]:
        listed = [each["metadata"]["name"] for each in (await api.get(PODS, **query))["items"]]
        return [name for name in listed if name in ("s1", "s2", "s3")]

    assert await names(labelSelector="tier=web") == ["s1"]
    assert await names(labelSelector="tier!=web") == ["s2", "s3"]
    assert await names(labelSelector="tier in (web, db)") == ["s1", "s2"]
    assert await names(labelSelector="tier notin (web)") == ["s2", "s3"]
    assert await names(labelSelector="tier") == ["s1", "s2"]
    assert await names(labelSelector="!tier") == ["s3"]
    assert await names(fieldSelector="spec.nodeName=sel") == ["s1"]
    assert await names(fieldSelector="metadata.name=s2") == ["s2"]
    assert await names(fieldSelector="status.phase=Pending,spec.nodeName!=sel") == ["s2", "s3"]
    assert (await refused(api.get(PODS, fieldSelector="spec.image=x"))).code == 400
    assert (await refused(api.get(PODS, labelSelector="a in b"))).code == 400


async def test_a_watch_goes_on_from_a_version(api: Api):
    await api.post(CONFIG_MAPS, config_map("w0"))
    version = await api.version()
    await api.post(CONFIG_MAPS, config_map("w1", a="1"))
    async with asyncio.timeout(EVERY_EVENT_WITHIN_S), api.watch(CONFIG_MAPS, resourceVersion=version) as stream:
        assert await stream.take(1) == [("ADDED", "w1")]
        await api.patch(f"{CONFIG_MAPS}/w1", {"data": {"a": "2"}})
        changed = await stream.next()
        assert (changed["type"], changed["object"]["data"], changed["object"]["kind"]) == (
            "MODIFIED",
            {"a": "2"},
            "ConfigMap",
        )
        await api.delete(f"{CONFIG_MAPS}/w1")
        gone = await stream.next()
        assert (gone["type"], gone["object"]["data"]) == ("DELETED", {"a": "2"})
        before, after = changed["object"]["metadata"], gone["object"]["metadata"]
        assert int(after["resourceVersion"]) > int(before["resourceVersion"])


async def test_a_selective_watch_sees_entering_as_added_and_leaving_as_deleted(api: Api):
    version = await api.version()
    query = {"labelSelector": "seen=yes", "resourceVersion": version}
    async with asyncio.timeout(EVERY_EVENT_WITHIN_S), api.watch(PODS, **query) as stream:
        await api.post(PODS, pod("hidden"))
        await api.patch(f"{PODS}/hidden", {"metadata": {"labels": {"seen": "yes"}}})
        await api.patch(f"{PODS}/hidden", {"metadata": {"labels": {"other": "x"}}})
        await api.patch(f"{PODS}/hidden", {"metadata": {"labels": {"seen": "no"}}})
        assert await stream.take(3) == [("ADDED", "hidden"), ("MODIFIED", "hidden"), ("DELETED", "hidden")]


async def test_a_watch_without_a_version_begins_with_what_is_there(api: Api):
    path = "/api/v1/namespaces/begun/configmaps"
    await api.post("/api/v1/namespaces", {"metadata": {"name": "begun"}})
    await api.post(path, config_map("old"))
    async with asyncio.timeout(EVERY_EVENT_WITHIN_S), api.watch(path) as stream:
        assert await stream.take(1) == [("ADDED", "old")]
        await api.post(path, config_map("new"))
        assert await stream.take(1) == [("ADDED", "new")]


async def test_a_watch_ends_after_its_time(api: Api):
    query = {"resourceVersion": await api.version(), "timeoutSeconds": 1, "fieldSelector": "metadata.name=none"}
    async with asyncio.timeout(EVERY_EVENT_WITHIN_S), api.watch(CONFIG_MAPS, **query) as stream:
        with pytest.raises(EOFError):
            await stream.next()


async def test_initial_events_end_with_a_bookmark(api: Api):
    path = "/api/v1/namespaces/streamed/configmaps"
    await api.post("/api/v1/namespaces", {"metadata": {"name": "streamed"}})
    await api.post(path, config_map("old"))
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    async with asyncio.timeout(EVERY_EVENT_WITHIN_S), api.watch(path, **query) as stream:
        first = await stream.next()
        if "RequestWatchProgress" in first["object"].get("message", ""):
            pytest.skip("this server's etcd is too old for streaming lists (before 3.5.13)")
        assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "old")
        end = await stream.next()
        assert end["type"] == "BOOKMARK"
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_namespaces_carry_their_name_as_a_label(api: Api):
    made = await api.post("/api/v1/namespaces", {"metadata": {"name": "named"}})
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "named"}
    assert made["status"] == {"phase": "Active"}
    assert (await refused(api.delete("/api/v1/namespaces/default"))).code == 403


async def test_services_get_addresses_and_ports(api: Api):
    plain = (await api.post(SERVICES, service("plain")))["spec"]
    assert plain["clusterIP"].startswith("10.96.")
    assert plain["clusterIPs"] == [plain["clusterIP"]]
    assert plain["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (plain["type"], plain["sessionAffinity"], plain["internalTrafficPolicy"]) == ("ClusterIP", "None", "Cluster")
    assert (plain["ipFamilies"], plain["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")
    outer = (await api.post(SERVICES, service("outer", type="NodePort")))["spec"]
    assert 30000 <= outer["ports"][0]["nodePort"] <= 32767
    assert outer["externalTrafficPolicy"] == "Cluster"
    local = (await api.post(SERVICES, service("local", type="LoadBalancer", externalTrafficPolicy="Local")))["spec"]
    assert 30000 <= local["healthCheckNodePort"] <= 32767
    headless = (await api.post(SERVICES, service("headless", clusterIP="None")))["spec"]
    assert headless["clusterIPs"] == ["None"]
    named = await api.post(
        SERVICES, {"metadata": {"name": "named"}, "spec": {"type": "ExternalName", "externalName": "example.com"}}
    )
    assert "clusterIP" not in named["spec"]


async def test_services_change_their_type_and_keep_their_address(api: Api):
    address = (await api.post(SERVICES, service("moving")))["spec"]["clusterIP"]
    path = f"{SERVICES}/moving"
    wide = (await api.patch(path, {"spec": {"type": "NodePort"}}))["spec"]
    assert (wide["clusterIP"], wide["ports"][0]["nodePort"] >= 30000) == (address, True)
    narrow = (await api.patch(path, {"spec": {"type": "ClusterIP"}}))["spec"]
    assert "nodePort" not in narrow["ports"][0]
    taken = await refused(api.post(SERVICES, service("thief", clusterIP=address)))
    assert (taken.code, taken.fields) == (422, [("FieldValueInvalid", "spec.clusterIPs")])
    fixed = await refused(api.patch(path, {"spec": {"clusterIP": "10.96.200.200", "clusterIPs": ["10.96.200.200"]}}))
    assert fixed.code == 422


async def test_network_policies_get_their_defaults(api: Api):
    made = await api.post(POLICIES, policy("both", ingress=[], egress=[{"ports": [{"port": 53}]}]))
    assert made["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert made["spec"]["egress"] == [{"ports": [{"port": 53, "protocol": "TCP"}]}]
    assert "ingress" not in made["spec"]
    assert made["metadata"]["generation"] == 1
    empty = await api.post(POLICIES, policy("empty-rule", ingress=[{}]))
    assert (empty["spec"]["ingress"], empty["spec"]["policyTypes"]) == ([{}], ["Ingress"])
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}
    kept = await api.post(POLICIES, policy("peers", ingress=[{"from": [peer]}]))
    assert kept["spec"]["ingress"] == [{"from": [peer]}]


def _from(peer: Doc) -> Doc:
    return policy("bad", ingress=[{"from": [peer]}])


BAD = {
    "loopback endpoint": (
        SLICES,
        {"metadata": {"name": "bad"}, "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}]},
        ("FieldValueInvalid", "endpoints[0].addresses[0]"),
    ),
    "external policy": (
        SERVICES,
        service("bad", externalTrafficPolicy="Local"),
        ("FieldValueInvalid", "spec.externalTrafficPolicy"),
    ),
    "name": (CONFIG_MAPS, config_map("Bad_Name"), ("FieldValueInvalid", "metadata.name")),
    "label": (PODS, pod("bad", labels={"a": "not valid!"}), ("FieldValueInvalid", "metadata.labels")),
    "no containers": (PODS, {"metadata": {"name": "bad"}, "spec": {}}, ("FieldValueRequired", "spec.containers")),
    "container port": (
        PODS,
        {
            "metadata": {"name": "bad"},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]},
        },
        ("FieldValueInvalid", "spec.containers[0].ports[0].containerPort"),
    ),
    "no ports": (SERVICES, {"metadata": {"name": "bad"}, "spec": {}}, ("FieldValueRequired", "spec.ports")),
    "service port": (SERVICES, service("bad", ports=[{"port": 0}]), ("FieldValueInvalid", "spec.ports[0].port")),
    "service type": (SERVICES, service("bad", type="Odd"), ("FieldValueNotSupported", "spec.type")),
    "node port": (
        SERVICES,
        service("bad", type="NodePort", ports=[{"port": 80, "nodePort": 80}]),
        ("FieldValueInvalid", "spec.ports[0].nodePort"),
    ),
    "except outside": (
        POLICIES,
        _from({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.0.2.0/24"]}}),
        ("FieldValueInvalid", "spec.ingress[0].from[0].ipBlock.except[0]"),
    ),
    "cidr": (
        POLICIES,
        _from({"ipBlock": {"cidr": "10.0.0.0/40"}}),
        ("FieldValueInvalid", "spec.ingress[0].from[0].ipBlock.cidr"),
    ),
    "block and selector": (
        POLICIES,
        _from({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
        ("FieldValueForbidden", "spec.ingress[0].from[0]"),
    ),
    "empty peer": (POLICIES, _from({}), ("FieldValueRequired", "spec.ingress[0].from[0]")),
    "operator": (
        POLICIES,
        _from({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}}),
        ("FieldValueInvalid", "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator"),
    ),
    "end port": (
        POLICIES,
        policy("bad", egress=[{"ports": [{"port": 90, "endPort": 80}]}]),
        ("FieldValueInvalid", "spec.egress[0].ports[0].endPort"),
    ),
    "policy type": (
        POLICIES,
        policy("bad", policyTypes=["Sideways"]),
        ("FieldValueNotSupported", "spec.policyTypes[0]"),
    ),
    "address type": (SLICES, {"metadata": {"name": "bad"}, "endpoints": []}, ("FieldValueRequired", "addressType")),
    "endpoint": (
        SLICES,
        {"metadata": {"name": "bad"}, "addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]},
        ("FieldValueInvalid", "endpoints[0].addresses[0]"),
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
async def test_invalid_objects_are_refused_with_the_field(api: Api, case: str):
    path, document, wanted = BAD[case]
    error = await refused(api.post(path, document))
    assert (error.code, error.reason) == (422, "Invalid")
    assert wanted in error.fields


DEFINITION: Doc = {
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


async def test_custom_resources(api: Api):
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await api.post(definitions, DEFINITION)
    widgets = "/apis/example.com/v1/namespaces/default/widgets"
    async with asyncio.timeout(EVERY_EVENT_WITHIN_S):
        while True:
            try:
                listed = await api.get(widgets)
                break
            except Refused:
                await asyncio.sleep(0.05)
        made = await api.post(
            widgets,
            {
                "apiVersion": "example.com/v1",
                "kind": "Widget",
                "metadata": {"name": "one"},
                "spec": {"size": 3, "tags": []},
            },
        )
        assert made["spec"] == {"size": 3, "tags": []}
        query = {"resourceVersion": listed["metadata"]["resourceVersion"]}
        async with api.watch(widgets, **query) as stream:
            assert await stream.take(1) == [("ADDED", "one")]
        by_status = await api.patch(f"{widgets}/one/status", {"spec": {"size": 9}, "status": {"ready": True}})
        assert (by_status["spec"]["size"], by_status["status"]) == (3, {"ready": True})
        assert by_status["metadata"]["generation"] == 1
        resized = await api.patch(f"{widgets}/one", {"spec": {"size": 4}, "status": None})
        assert (resized["metadata"]["generation"], resized["status"]) == (2, {"ready": True})
        assert (await api.get(widgets))["items"][0]["kind"] == "Widget"


async def test_tables_for_kubectl(api: Api):
    await api.post(PODS, pod("shown", node="n7"))
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    table = await api.get(PODS, fieldSelector="metadata.name=shown", accept=accept)
    names = [each["name"] for each in table["columnDefinitions"]]
    row = dict(zip(names, table["rows"][0]["cells"], strict=True))
    assert (row["Name"], row["Ready"], row["Status"], row["Node"]) == ("shown", "0/1", "Pending", "n7")
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert [each["name"] for each in table["columnDefinitions"] if each["priority"] == 0] == [
        "Name",
        "Ready",
        "Status",
        "Restarts",
        "Age",
    ]


async def test_a_collection_is_deleted_by_selector(api: Api):
    for name in ("c1", "c2"):
        await api.post(CONFIG_MAPS, {"metadata": {"name": name, "labels": {"batch": "x"}}})
    await api.delete(CONFIG_MAPS, labelSelector="batch=x")
    assert (await api.get(CONFIG_MAPS, labelSelector="batch=x"))["items"] == []


async def test_a_dry_run_stores_nothing(api: Api):
    shown = await api.post(SERVICES, service("dry"), dryRun="All")
    assert shown["spec"]["sessionAffinity"] == "None"
    assert (await refused(api.get(f"{SERVICES}/dry"))).code == 404


async def test_unknown_fields_are_refused_when_strict_and_dropped_otherwise(api: Api):
    odd = pod("odd")
    odd["spec"]["nodeNaem"] = "n1"
    error = await refused(api.post(PODS, odd, fieldValidation="Strict"))
    assert (error.code, error.reason) == (400, "BadRequest")
    assert 'unknown field "spec.nodeNaem"' in error.status["message"]
    assert "nodeNaem" not in (await api.post(PODS, odd))["spec"]
    mistyped = await refused(api.post(PODS, {"metadata": {"name": "m"}, "spec": {"containers": "none"}}))
    assert mistyped.code == 400


async def test_lists_of_a_strategic_patch_stand_in_its_order(api: Api):
    await api.post(SERVICES, service("ordered", ports=[{"name": "a", "port": 80}]))
    wanted = {"spec": {"ports": [{"name": "b", "port": 81, "protocol": "TCP"}, {"name": "a", "port": 80}]}}
    patched = await api.patch(f"{SERVICES}/ordered", wanted, form=STRATEGIC)
    assert [each["name"] for each in patched["spec"]["ports"]] == ["b", "a"]


async def test_a_lease_is_created_by_an_update(api: Api):
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/fresh"
    made = await api.put(path, {"metadata": {"name": "fresh"}, "spec": {"holderIdentity": "me"}})
    assert made["spec"]["holderIdentity"] == "me"
    misnamed = await refused(api.put(path, {"metadata": {"name": "other"}, "spec": {}}))
    assert misnamed.code == 400


async def test_aggregated_discovery(api: Api):
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    document = await api.call("GET", "/api", accept=accept)
    assert document["kind"] == "APIGroupDiscoveryList"
    resources = {each["resource"]: each for each in document["items"][0]["versions"][0]["resources"]}
    assert resources["pods"]["responseKind"]["kind"] == "Pod"
    assert "status" in {each["subresource"] for each in resources["pods"]["subresources"]}
