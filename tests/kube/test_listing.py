"""Lists by page: complete, in order, at one version; what goes wrong says so."""

from __future__ import annotations

import json

import pytest

from contiv.kube.client import KubeClient
from contiv.kube.errors import KubeDenied, KubeGarbled, KubeGone, KubeRefused, KubeUnavailable
from contiv.kube.listing import list_pages
from tests.kube.scripted import PODS, ScriptedApi, pod


async def names(client: KubeClient, *, limit: int) -> list[list[str]]:
    return [
        [json.loads(bytes(item))["metadata"]["name"] for item in page.items]
        async for page in list_pages(client, PODS, limit=limit)
    ]


async def test_pages_hold_everything_once(api: ScriptedApi, client: KubeClient):
    for name in "abcde":
        await api.put(PODS, pod(name))
    assert await names(client, limit=2) == [["a", "b"], ["c", "d"], ["e"]]
    assert await names(client, limit=0) == [["a", "b", "c", "d", "e"]]


async def test_an_empty_collection_is_one_empty_page_with_its_version(api: ScriptedApi, client: KubeClient):
    pages = [page async for page in list_pages(client, PODS)]
    assert [(page.items, page.resource_version) for page in pages] == [((), "100")]


async def test_an_expired_token_ends_the_list(api: ScriptedApi, client: KubeClient):
    for name in "abc":
        await api.put(PODS, pod(name))
    pages = list_pages(client, PODS, limit=1)
    await anext(pages)
    await api.expire()
    with pytest.raises(KubeGone, match="410 Expired"):
        await anext(pages)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, KubeDenied),
        (403, KubeDenied),
        (404, KubeRefused),
        (410, KubeGone),
        (429, KubeUnavailable),
        (500, KubeUnavailable),
        (503, KubeUnavailable),
    ],
)
async def test_statuses_become_errors_of_one_tree(
    api: ScriptedApi, client: KubeClient, status: int, kind: type[Exception]
):
    api.statuses = [(status, {"Retry-After": "7"})] * 2
    with pytest.raises(kind, match=f"GET {PODS}: {status} Scripted: scripted {status}") as caught:
        await names(client, limit=1)
    if isinstance(caught.value, KubeUnavailable):
        assert caught.value.retry_after_s == 7


async def test_an_answer_that_is_no_list_is_garbled(api: ScriptedApi, client: KubeClient, monkeypatch):
    async def body(*_: object, **__: object) -> bytes:
        return b"<html>welcome to the proxy"

    monkeypatch.setattr(client, "get", body)
    with pytest.raises(KubeGarbled, match="no list"):
        await names(client, limit=1)


async def test_nobody_listening_is_unavailable(api: ScriptedApi, client: KubeClient, monkeypatch):
    async with ScriptedApi().serve() as other:
        gone = other.url
    source = client._source
    access = await source.current()
    monkeypatch.setattr(source, "_access", type(access)(server=gone, rotates=False))
    with pytest.raises(KubeUnavailable):
        await names(client, limit=1)
