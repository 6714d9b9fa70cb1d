"""What a container of an engine is: its name, its labels, and what the daemon is asked for."""

import hashlib
import ipaddress
import re
from collections.abc import Sequence

from gateway_plugins.runtime.drivers.driver import Launch
from gateway_plugins.runtime.options import Docker

OWNER = "gateway-owner"
RUNTIME = "gateway-runtime"
MODEL = "gateway-model"
GENERATION = "gateway-generation"

LOGS = {"type": "json-file", "config": {"max-size": "10m", "max-file": "2"}}
"""The daemon's own copy of what an engine prints must not fill its disk."""


def name_of(launch: Launch) -> str:
    """Return `gateway-RUNTIME`, and more of an engine that may be there beside others."""
    name = f"gateway-{launch.runtime}"
    if not launch.resident:
        return name
    model = re.sub(r"[^A-Za-z0-9_.-]+", "-", launch.model)[:40]
    return f"{name}-{model}-{hashlib.sha256(launch.model.encode()).hexdigest()[:8]}"


def arguments(launch: Launch, docker: Docker, owner: str) -> dict[str, object]:
    """Return the arguments of `containers.create` of the Docker SDK. They hold secrets."""
    entrypoint, *command = (*(docker.entrypoint or ()), *launch.command)
    return {
        "image": docker.image,
        "name": name_of(launch),
        "entrypoint": [entrypoint],
        "command": command,
        "environment": dict(launch.environment),
        "volumes": list(docker.volumes),
        "network": docker.network,
        "ports": _ports(launch, docker),
        "shm_size": docker.shm_size,
        "ipc_mode": docker.ipc,
        "device_requests": _gpus(launch.devices) if docker.gpus else [],
        "labels": docker.labels | _labels(launch, owner),
        "log_config": LOGS,
    }


def listens_at(docker: Docker | None, host: str) -> str:
    """Return the address that an engine has to listen at for `host` to reach it.

    The loopback address of a container with a network of its own is its own.
    """
    return host if docker is None or docker.network == "host" else "0.0.0.0"


def _labels(launch: Launch, owner: str) -> dict[str, str]:
    return {
        OWNER: owner,
        RUNTIME: launch.runtime,
        MODEL: launch.model,
        GENERATION: str(launch.generation),
    }


def _ports(launch: Launch, docker: Docker) -> dict[str, tuple[str, int]]:
    """Publish the port on the loopback address that the engine is to be reached at.

    A host that is no such address is the container's own, in the network of the gateway.
    """
    if docker.network == "host" or not _is_loopback(launch.host):
        return {}
    address = "127.0.0.1" if launch.host == "localhost" else launch.host
    return {f"{launch.port}/tcp": (address, launch.port)}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _gpus(devices: Sequence[str]) -> list[dict[str, object]]:
    """Return what `docker run --gpus` asks for: the devices, or all of them."""
    which = {"device_ids": [*devices]} if devices else {"count": -1}
    return [{**which, "capabilities": [["gpu"]]}]
