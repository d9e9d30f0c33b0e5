"""Watches under trouble: lost history, broken streams, refused and delayed answers."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from contiv.emulator.kube import EmulatedKube, Settings
from tests.emulator.kube.api import CONFIG_MAPS, PODS, Api, Refused, config_map, pod


async def test_a_watch_from_before_the_history_ends_with_an_error_event(kube: EmulatedKube, api: Api):
    version = await api.version()
    await api.post(CONFIG_MAPS, config_map("a"))
    kube.faults.expire_versions()
    async with api.watch(CONFIG_MAPS, resourceVersion=version) as stream:
        event = await stream.next()
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        with pytest.raises(EOFError):
            await stream.next()


async def test_a_watch_can_be_refused_with_410(kube: EmulatedKube, api: Api):
    kube.faults.gone()
    with pytest.raises(Refused) as caught:
        async with api.watch(CONFIG_MAPS, resourceVersion="1"):
            pass
    assert (caught.value.code, caught.value.reason) == (410, "Expired")
    async with api.watch(CONFIG_MAPS, resourceVersion=await api.version()):
        pass


async def test_an_expired_page_offers_a_token_to_go_on(kube: EmulatedKube, api: Api):
    for name in ("a", "b", "c"):
        await api.post(CONFIG_MAPS, config_map(name))
    first = await api.get(CONFIG_MAPS, limit=1)
    await api.post(CONFIG_MAPS, config_map("d"))
    kube.faults.expire_versions()
    with pytest.raises(Refused) as caught:
        await api.get(CONFIG_MAPS, **{"continue": first["metadata"]["continue"]})
    assert (caught.value.code, caught.value.reason) == (410, "Expired")
    token = caught.value.status["metadata"]["continue"]
    rest = await api.get(CONFIG_MAPS, **{"continue": token})
    assert [each["metadata"]["name"] for each in rest["items"]] == ["b", "c", "d"]


async def test_an_exact_list_of_a_forgotten_version_is_gone(kube: EmulatedKube, api: Api):
    version = await api.version()
    await api.post(CONFIG_MAPS, config_map("a"))
    kube.faults.expire_versions()
    with pytest.raises(Refused) as caught:
        await api.get(CONFIG_MAPS, resourceVersion=version, resourceVersionMatch="Exact")
    assert caught.value.code == 410


async def test_a_watch_that_falls_behind_the_history_is_told():
    async with EmulatedKube(Settings(history_max=10)) as kube, Api(kube.url) as api:
        version = await api.version()
        for index in range(40):
            await api.post(CONFIG_MAPS, config_map(f"c{index}"))
        async with api.watch(CONFIG_MAPS, resourceVersion=version) as stream:
            assert (await stream.next())["object"]["code"] == 410


async def test_bookmarks_tell_the_version_reached():
    async with EmulatedKube(Settings(bookmark_interval_s=0.05)) as kube, Api(kube.url) as api:
        query = {"resourceVersion": await api.version(), "allowWatchBookmarks": "true"}
        async with asyncio.timeout(5), api.watch(CONFIG_MAPS, **query) as stream:
            await api.post(PODS, pod("elsewhere"))
            version = await api.version()
            while True:
                event = await stream.next()
                assert event["type"] == "BOOKMARK"
                if event["object"]["metadata"]["resourceVersion"] == version:
                    break


async def test_dropped_connections_end_watches(kube: EmulatedKube, api: Api):
    async with api.watch(CONFIG_MAPS, resourceVersion=await api.version()) as stream:
        async with Api(kube.url) as other:
            with pytest.raises(aiohttp.ClientError):
                await other.post("/_faults", {"drop": True})
        with pytest.raises((aiohttp.ClientError, EOFError)):
            await stream.next()


async def test_watches_break_after_some_events(kube: EmulatedKube, api: Api):
    version = await api.version()
    for name in ("a", "b", "c"):
        await api.post(CONFIG_MAPS, config_map(name))
    await api.post("/_faults", {"break_watches": {"after": 2}})
    async with api.watch(CONFIG_MAPS, resourceVersion=version) as stream:
        assert await stream.take(2) == [("ADDED", "a"), ("ADDED", "b")]
        with pytest.raises((aiohttp.ClientError, EOFError)):
            await stream.next()
    async with api.watch(CONFIG_MAPS, resourceVersion=version) as stream:
        assert len(await stream.take(3)) == 3


async def test_a_truncated_event_is_no_json(kube: EmulatedKube, api: Api):
    version = await api.version()
    await api.post(CONFIG_MAPS, config_map("a"))
    kube.faults.truncate()
    async with api.watch(CONFIG_MAPS, resourceVersion=version) as stream:
        with pytest.raises((aiohttp.ClientError, EOFError, json.JSONDecodeError)):
            await stream.next()


@pytest.mark.parametrize(("how", "code"), [("503", 503), ("429", 429)])
async def test_requests_are_refused_for_a_time(kube: EmulatedKube, api: Api, how: str, code: int):
    await api.post("/_faults", {"refuse": {"seconds": 60, "how": how}})
    with pytest.raises(Refused) as caught:
        await api.get(PODS)
    assert caught.value.code == code
    await api.post("/_faults", {"clear": True})
    await api.get(PODS)


async def test_connections_are_reset_for_a_time(kube: EmulatedKube, api: Api):
    kube.faults.refuse(60, how="reset")
    with pytest.raises(aiohttp.ClientError):
        await api.get(PODS)
    kube.faults.clear()
    await api.get(PODS)


async def test_answers_are_held_back(kube: EmulatedKube, api: Api):
    clock = asyncio.get_running_loop().time
    await api.post("/_faults", {"delay": {"seconds": 0.2}})
    before = clock()
    await api.get(PODS)
    assert clock() - before >= 0.2


async def test_an_unknown_fault_is_refused(api: Api):
    with pytest.raises(Refused) as caught:
        await api.post("/_faults", {"explode": True})
    assert caught.value.code == 400


async def test_the_objects_survive_a_stop_and_a_start(kube: EmulatedKube, api: Api):
    await api.post(CONFIG_MAPS, config_map("kept"))
    url = kube.url
    await kube.stop()
    with pytest.raises(aiohttp.ClientError):
        await api.get(CONFIG_MAPS)
    await kube.start()
    assert kube.url == url
    assert (await api.get(f"{CONFIG_MAPS}/kept"))["metadata"]["name"] == "kept"


async def test_a_namespace_takes_its_content_along(api: Api):
    await api.post("/api/v1/namespaces", {"metadata": {"name": "gone"}})
    path = "/api/v1/namespaces/gone/pods"
    await api.post(path, pod("bound", node="n1"))
    await api.post("/api/v1/namespaces/gone/configmaps", config_map("c"))
    marked = await api.delete("/api/v1/namespaces/gone")
    assert marked["status"]["phase"] == "Terminating"
    with pytest.raises(Refused) as caught:
        await api.post(path, pod("late"))
    assert caught.value.code == 403
    await api.delete(f"{path}/bound", gracePeriodSeconds=0)
    with pytest.raises(Refused) as caught:
        await api.get("/api/v1/namespaces/gone")
    assert caught.value.code == 404
