"""A pod from kubectl to packets and back to nothing: what VPP, Linux, etcd and IPAM hold before and after."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from contiv.demo.api import key_of
from contiv.linux import netns
from contiv.model import keys
from contiv.model.ip import Address, Network
from tests.e2e.conftest import Build
from tests.e2e.world import World, address, eventually, pod

pytestmark = pytest.mark.root


async def test_a_pod_created_with_kubectl_talks_and_a_deleted_one_leaves_nothing(build: Build) -> None:
    async with build(2) as world:
        far = await world.create_pod("far", node=2)
        before = await snapshot(world)
        near = await world.create_pod("near", node=1)
        claimed = (await world.rest(1, "ipam"))["node"]["pod_subnet"]
        assert Address.parse(address(near)) in Network.parse(claimed)
        assert (await world.ping(far, near)).lost == 0
        assert (await world.ping(near, far)).lost == 0

        during = await world.held(1)
        assert during.mentions(address(near)), "the pod's route and neighbour are in VPP"
        assert any(address(near).encode() in value for value in (await world.etcd()).values())
        namespace = world.cluster.sandbox_netns(near)

        await world.kubectl("delete", "pod", "near", "--wait=true")
        assert key_of(near) not in await world.pods()
        assert not netns.exists(namespace)
        for number in (1, 2):
            assert (await world.held(number)).mentions(address(near)) == []
        assert await snapshot(world) == before
        assert not any(address(near).encode() in value for value in (await world.etcd()).values())


async def test_many_pods_that_speak_at_the_same_moment_are_all_heard(build: Build) -> None:
    # VPP's main loop takes 16 events from epoll at a time: docs/decisions/vpp-epoll-guard.md
    async with build(1) as world:
        pods = list((await world.create_pods([pod(f"pod-{number}", node=1) for number in range(24)])).values())
        pairs = [(source, [pods[number - 1]]) for number, source in enumerate(pods)]
        data_plane = world.dataplane_pid(1)
        async with world.steady_pings(pairs, period_s=0.02) as finish:
            for _ in range(5):
                os.kill(data_plane, signal.SIGSTOP)
                await asyncio.sleep(0.1)  # each pod sends five requests meanwhile: fewer than a ring holds
                os.kill(data_plane, signal.SIGCONT)
                async with asyncio.timeout(5), world.vpp(1) as api:
                    await api.call("show_version")
                await asyncio.sleep(0.2)
            pings = await finish()
        assert pings.lost == {}
        assert pings.sent > 24


async def test_a_pod_that_comes_back_under_its_name_gets_another_address(build: Build) -> None:
    async with build(1) as world:
        first = await world.create_pod("web", node=1)
        other = await world.create_pod("other", node=1)
        await world.kubectl("delete", "pod", "web", "--wait=true")
        second = await world.create_pod("web", node=1)
        assert address(second) not in (address(first), address(other))
        await world.assert_mesh([second, other])


async def test_netctl_and_etcd_agree_with_kubernetes_about_pods(build: Build) -> None:
    async with build(2) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        stored = await world.etcd(keys.VSWITCH)
        assert len(stored) == 2
        for thing in pods:
            node = thing["spec"]["nodeName"]
            (value,) = [v for key, v in stored.items() if key.startswith(keys.attachments(node))]
            assert address(thing).encode() in value

            async def reflected(name: str = thing["metadata"]["name"], where: str = address(thing)) -> bool:
                value = (await world.etcd(keys.k8s_object("pods", name, namespace="default"))).values()
                return any(where.encode() in each for each in value)

            await eventually(reflected, "KSR reflects the pod's address", timeout_s=5)


async def snapshot(world: World) -> object:
    """All that a pod changes anywhere."""
    await world.settled()
    held = [await world.held(number) for number in (1, 2)]
    etcd = set(await world.etcd())
    ipam = [(await world.rest(number, "ipam"))["allocations"] for number in (1, 2)]
    return held, etcd, ipam
