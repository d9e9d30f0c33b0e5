"""What an operator applies, read as plain documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from contiv.config import Config, parse

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMESPACE = "contiv-vpp"
Document = dict[str, Any]


class Container(Struct, frozen=True):
    """A container, its pod's specification and the name of who makes the pod."""

    owner: str
    spec: Document
    pod: Document

    def __str__(self) -> str:
        return f"{self.owner}/{self.spec['name']}"

    @property
    def command(self) -> list[str]:
        return list(self.spec["command"])

    @property
    def mounts(self) -> dict[str, Document]:
        """The volume behind each path."""
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        return {mount["mountPath"]: volumes[mount["name"]] for mount in self.spec["volumeMounts"]}

    @property
    def host_paths(self) -> dict[str, str]:
        """The node's path behind each path of the container that leads to one."""
        return {path: volume["hostPath"]["path"] for path, volume in self.mounts.items() if "hostPath" in volume}


def documents() -> list[Document]:
    """All objects of all files."""
    files = sorted({*DEPLOY.glob("*.yaml"), *DEPLOY.glob("crds/*.yaml")} - {DEPLOY / "kustomization.yaml"})
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> dict[str, Document]:
    """The objects of a kind by name."""
    return {each["metadata"]["name"]: each for each in documents() if each["kind"] == kind}


def containers() -> Iterator[Container]:
    """Every container of every pod, those that run first included."""
    for document in documents():
        if "template" in document.get("spec", {}):
            pod = document["spec"]["template"]["spec"]
            for spec in (*pod.get("initContainers", ()), *pod["containers"]):
                yield Container(document["metadata"]["name"], spec, pod)


def container(name: str) -> Container:
    """The one that is called ``owner/container``."""
    return next(each for each in containers() if str(each) == name)


def configured() -> Config:
    """The configuration that all of them run with."""
    return parse(of_kind("ConfigMap")["contiv"]["data"]["contiv.yaml"])
