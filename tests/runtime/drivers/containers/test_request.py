"""What a container of an engine is asked to be, without a daemon."""

import msgspec
import pytest
from gateway_plugins.runtime.drivers.containers.request import (
    arguments,
    listens_at,
    name_of,
)
from gateway_plugins.runtime.drivers.driver import Launch
from gateway_plugins.runtime.options import Docker

IMAGE = Docker(image="engine:1")


def launch(**changes: object) -> Launch:
    plain = Launch(
        generation=7,
        runtime="gpu",
        model="org/small",
        command=("vllm", "serve", "org/small"),
        environment={"HF_TOKEN": "hf_secret"},
        host="127.0.0.1",
        port=30_000,
    )
    return msgspec.structs.replace(plain, **changes)


def test_command_replaces_the_entrypoint_of_the_image() -> None:
    asked = arguments(launch(), IMAGE, "me")
    assert (asked["entrypoint"], asked["command"]) == (["vllm"], ["serve", "org/small"])
    wrapped = arguments(launch(), Docker(image="i", entrypoint=("/entry.sh", "-v")), "me")
    assert wrapped["entrypoint"] == ["/entry.sh"]
    assert wrapped["command"] == ["-v", "vllm", "serve", "org/small"]


@pytest.mark.parametrize(
    ("devices", "request_"),
    [
        ((), {"count": -1, "capabilities": [["gpu"]]}),
        (("0", "3"), {"device_ids": ["0", "3"], "capabilities": [["gpu"]]}),
        (("GPU-8c1f",), {"device_ids": ["GPU-8c1f"], "capabilities": [["gpu"]]}),
    ],
)
def test_gpus_are_requested_as_docker_run_does(
    devices: tuple[str, ...], request_: dict[str, object]
) -> None:
    asked = arguments(launch(devices=devices), IMAGE, "me")
    assert asked["device_requests"] == [request_]


def test_containers_without_gpus_request_none() -> None:
    asked = arguments(launch(devices=("0",)), Docker(image="i", gpus=False), "me")
    assert asked["device_requests"] == []


def test_labels_of_the_gateway_are_not_replaced_by_configured_ones() -> None:
    docker = Docker(image="i", labels={"team": "nlp", "gateway-owner": "somebody"})
    assert arguments(launch(), docker, "me")["labels"] == {
        "team": "nlp",
        "gateway-owner": "me",
        "gateway-runtime": "gpu",
        "gateway-model": "org/small",
        "gateway-generation": "7",
    }


@pytest.mark.parametrize(
    ("network", "host", "ports"),
    [
        ("host", "127.0.0.1", {}),
        (None, "127.0.0.1", {"30000/tcp": ("127.0.0.1", 30_000)}),
        ("models", "localhost", {"30000/tcp": ("127.0.0.1", 30_000)}),
        (None, "::1", {"30000/tcp": ("::1", 30_000)}),
        ("models", "gateway-gpu", {}),
        (None, "0.0.0.0", {}),
    ],
)
def test_ports_are_published_on_loopback_addresses_only(
    network: str | None, host: str, ports: object
) -> None:
    asked = arguments(launch(host=host), Docker(image="i", network=network), "me")
    assert asked["ports"] == ports
    assert asked["network"] == network


def test_engine_listens_where_its_host_reaches_it() -> None:
    assert listens_at(None, "127.0.0.1") == "127.0.0.1"
    assert listens_at(Docker(image="i", network="host"), "127.0.0.1") == "127.0.0.1"
    assert listens_at(IMAGE, "127.0.0.1") == "0.0.0.0"


def test_memory_volumes_and_environment_are_passed_on() -> None:
    docker = Docker(image="i", volumes=("/hub:/root/hub:ro",), shm_size="8g", ipc="private")
    asked = arguments(launch(), docker, "me")
    assert asked["volumes"] == ["/hub:/root/hub:ro"]
    assert (asked["shm_size"], asked["ipc_mode"]) == ("8g", "private")
    assert asked["environment"] == {"HF_TOKEN": "hf_secret"}
    assert "restart_policy" not in asked


def test_names_differ_between_engines_that_live_beside_each_other() -> None:
    assert name_of(launch()) == "gateway-gpu"
    resident = [name_of(launch(resident=True, model=model)) for model in ("a/b", "a-b", "a b")]
    assert len({*resident, "gateway-gpu"}) == 4
    assert all(name.startswith("gateway-gpu-a-b-") for name in resident)
