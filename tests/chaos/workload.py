"""What users do meanwhile: pods, policies and services that come, change and go, at random, over the API server.

In: a ``World``. Out: ``Workload``: ``step`` does one change and remembers what should be there, ``remove`` takes all of
it away. A change that the API server does not answer, because it is frozen, is tried again until it is made.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp

from contiv.demo.api import ApiRefusal, Object
from tests.e2e.services import server, service
from tests.e2e.world import World

NAMESPACES: Final = ("red", "blue")
PODS_MAX: Final = 10
POLICIES_MAX: Final = 6
SERVICES_MAX: Final = 5
LABELS: Final = ("web", "db", "job")
PORTS: Final = (80, 81)
PATIENCE_S: Final = 60.0
RETRY_S: Final = 0.5
SERVICE_TYPES: Final = ("ClusterIP", "NodePort")
POLICIES: Final = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
SERVICES: Final = "/api/v1/namespaces/{}/services"


class Workload:
    """The users. ``pods``, ``policies`` and ``services`` are by ``namespace/name`` what should be there."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.pods: dict[str, Object] = {}
        self.policies: dict[str, Object] = {}
        self.services: dict[str, Object] = {}
        self._world = world
        self._api = world.cluster.api
        self._dice = dice
        self._number = 0

    async def start(self) -> None:
        """The namespaces, and a few pods on every node."""
        for name in NAMESPACES:
            thing = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": name}}}
            await self._world.cluster.create(thing)
        for _ in range(PODS_MAX // 2):
            await self._create_pod()

    async def step(self) -> None:
        """One change."""
        steps: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        if len(self.pods) < PODS_MAX:
            steps += [("pod created", self._create_pod)] * 3
        if len(self.pods) > PODS_MAX // 3:
            steps += [("pod deleted", self._delete_pod)] * 2
        if self.pods:
            steps += [("pod relabelled", self._relabel_pod)]
        if len(self.policies) < POLICIES_MAX:
            steps += [("policy created", self._create_policy)] * 2
        if self.policies:
            steps += [("policy changed", self._change_policy), ("policy deleted", self._delete_policy)]
        if len(self.services) < SERVICES_MAX:
            steps += [("service created", self._create_service)]
        if self.services:
            steps += [("service changed", self._change_service), ("service deleted", self._delete_service)]
        name, step = self._dice.choice(steps)
        self.done[name] += 1
        await step()

    async def remove(self) -> None:
        """Take everything away again."""
        while self.policies:
            await self._delete_policy()
        while self.services:
            await self._delete_service()
        while self.pods:
            await self._delete_pod()
        for name in NAMESPACES:
            await self._request("DELETE", f"/api/v1/namespaces/{name}", missing_is_fine=True)

    # ---- pods ----------------------------------------------------------------------------------------------

    async def _create_pod(self) -> None:
        self._number += 1
        namespace, name = self._dice.choice(NAMESPACES), f"pod-{self._number}"
        thing = server(
            name,
            node=self._dice.randint(1, len(self._world.cluster.nodes)),
            app=self._dice.choice(LABELS),
            ports=(8080,),
        )
        thing["metadata"]["namespace"] = namespace
        await self._request("POST", f"/api/v1/namespaces/{namespace}/pods", body=thing)
        self.pods[f"{namespace}/{name}"] = thing

    async def _delete_pod(self) -> None:
        key = self._dice.choice(sorted(self.pods))
        await self._request("DELETE", _pod_path(key), missing_is_fine=True)
        del self.pods[key]

    async def _relabel_pod(self) -> None:
        key = self._dice.choice(sorted(self.pods))
        labels = {"app": self._dice.choice(LABELS)}
        await self._request("PATCH", _pod_path(key), body={"metadata": {"labels": labels}})
        self.pods[key]["metadata"]["labels"] = labels

    # ---- policies ------------------------------------------------------------------------------------------

    async def _create_policy(self) -> None:
        self._number += 1
        namespace, name = self._dice.choice(NAMESPACES), f"policy-{self._number}"
        thing = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": self._spec(),
        }
        await self._request("POST", POLICIES.format(namespace), body=thing)
        self.policies[f"{namespace}/{name}"] = thing

    async def _change_policy(self) -> None:
        key = self._dice.choice(sorted(self.policies))
        namespace, _, name = key.partition("/")
        thing = {**self.policies[key], "spec": self._spec()}
        await self._request("PUT", f"{POLICIES.format(namespace)}/{name}", body=thing)
        self.policies[key] = thing

    async def _delete_policy(self) -> None:
        key = self._dice.choice(sorted(self.policies))
        namespace, _, name = key.partition("/")
        await self._request("DELETE", f"{POLICIES.format(namespace)}/{name}", missing_is_fine=True)
        del self.policies[key]

    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"podSelector": self._selector(), "policyTypes": []}
        for direction, peers in (("Ingress", "from"), ("Egress", "to")):
            if self._dice.random() < 0.6:
                spec["policyTypes"].append(direction)
                rules = [self._rule(peers) for _ in range(self._dice.randint(0, 2))]
                spec[direction.lower()] = rules
        if not spec["policyTypes"]:
            spec["policyTypes"] = ["Ingress"]
        return spec

    def _selector(self) -> dict[str, Any]:
        return {"matchLabels": {"app": self._dice.choice(LABELS)}} if self._dice.random() < 0.7 else {}

    def _rule(self, peers: str) -> dict[str, Any]:
        rule: dict[str, Any] = {}
        if self._dice.random() < 0.8:
            rule[peers] = [self._peer()]
        if self._dice.random() < 0.5:
            protocol = self._dice.choice(("TCP", "UDP"))
            rule["ports"] = [{"protocol": protocol, "port": self._dice.choice(PORTS)}]
        return rule

    def _peer(self) -> dict[str, Any]:
        kind = self._dice.randrange(3)
        if kind == 0:
            return {"podSelector": self._selector()}
        team = {"matchLabels": {"team": self._dice.choice(NAMESPACES)}}
        return (
            {"namespaceSelector": team} if kind == 1 else {"namespaceSelector": team, "podSelector": self._selector()}
        )

    # ---- services ------------------------------------------------------------------------------------------

    async def _create_service(self) -> None:
        self._number += 1
        namespace, name = self._dice.choice(NAMESPACES), f"service-{self._number}"
        thing = service(name, app=self._dice.choice(LABELS), type=self._dice.choice(SERVICE_TYPES))
        thing["metadata"]["namespace"] = namespace
        await self._request("POST", SERVICES.format(namespace), body=thing)
        self.services[f"{namespace}/{name}"] = thing

    async def _change_service(self) -> None:
        """Other pods serve from now on, on another port."""
        key = self._dice.choice(sorted(self.services))
        namespace, _, name = key.partition("/")
        other = service(name, app=self._dice.choice(LABELS), port=self._dice.choice(PORTS))
        await self._request("PATCH", f"{SERVICES.format(namespace)}/{name}", body={"spec": other["spec"]})
        self.services[key] = other

    async def _delete_service(self) -> None:
        key = self._dice.choice(sorted(self.services))
        namespace, _, name = key.partition("/")
        await self._request("DELETE", f"{SERVICES.format(namespace)}/{name}", missing_is_fine=True)
        del self.services[key]

    # ---- the API server ------------------------------------------------------------------------------------

    async def _request(
        self, method: str, path: str, *, body: Object | None = None, missing_is_fine: bool = False
    ) -> None:
        """Until the API server has done it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    if method == "PATCH":
                        await self._api.patch(path, body or {})
                    else:
                        await self._api.request(method, path, body=body)
                except ApiRefusal as refusal:
                    done = refusal.reason == "AlreadyExists" or (missing_is_fine and refusal.status == 404)
                    if not done:
                        raise
                except (aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(RETRY_S)
                    continue
                return


def _pod_path(key: str) -> str:
    namespace, _, name = key.partition("/")
    return f"/api/v1/namespaces/{namespace}/pods/{name}"
