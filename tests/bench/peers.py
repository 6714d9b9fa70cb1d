"""The others, each as it comes, with one process and no retries.

nginx passes bytes on and knows of no worker's state; vllm-router and smg choose a worker and record
nothing; rllm-model-gateway records every call, LiteLLM converts it. The floor is no product: it is
what passing bytes on costs on the event loop that the gateway has, too.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from support.ports import free_port

from bench.programs import on_path, said, venv
from bench.systems import CHAT, Command, Place, System
from gateway import ConfigError

Peer = Callable[[Path], System]
"""Makes one ready in the folder of programs. Raises ConfigError where it cannot be had."""

FLOOR = Path(__file__).with_name("floor.py")

NGINX = """\
worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err; daemon off;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_max_body_size 64m; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream worker {{ server 127.0.0.1:{worker}; keepalive 512; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://worker; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""

NGINX_DAV = """\
user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err; daemon off;
events {{ }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {folder}/uploads/temporary;
  proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 200; }}
    location /uploads/ {{ root {folder}; dav_methods PUT; }}
  }}
}}
"""
"""It takes uploads by its module for DAV."""

LITELLM = """\
model_list:
  - model_name: bench-model
    litellm_params: {{model: hosted_vllm/bench-model, api_base: "{worker}/v1", api_key: none}}
litellm_settings: {{num_retries: 0, telemetry: false}}
"""


def floor(folder: Path) -> System:
    def command(place: Place) -> Command:
        ports = (str(place.port), str(place.worker_port))
        return Command(argv=(sys.executable, str(FLOOR), *ports))

    return System(name="floor", command=command)


def nginx(folder: Path) -> System:
    program = on_path("nginx", "nginx-light")

    def command(place: Place) -> Command:
        text = NGINX.format(folder=place.folder, port=place.port, worker=place.worker_port)
        file = place.folder / "nginx.conf"
        file.write_text(text)
        argv = (program, "-c", str(file), "-e", str(place.folder / "nginx.err"))
        return Command(argv=argv, configuration=text)

    return System(name="nginx", version=said([program, "-v"]).rpartition("/")[2], command=command)


def nginx_dav(folder: Path) -> System:
    program = on_path("nginx", "nginx-light")
    told = said([program, "-V"])
    if "http_dav_module" not in told:
        raise ConfigError("nginx has no module for DAV; on Debian: apt-get install nginx-light")

    def command(place: Place) -> Command:
        (place.folder / "uploads").mkdir(exist_ok=True)
        text = NGINX_DAV.format(folder=place.folder, port=place.port)
        file = place.folder / "nginx.conf"
        file.write_text(text)
        argv = (program, "-c", str(file), "-e", str(place.folder / "nginx.err"))
        return Command(argv=argv, configuration=text)

    version = told.splitlines()[0].rpartition("/")[2]
    return System(name="nginx-dav", version=version, command=command, dav=True)


def vllm_router(folder: Path) -> System:
    version = "0.1.17"
    programs = venv(folder, "vllm-router", version)

    def command(place: Place) -> Command:
        return Command(argv=(str(programs / "vllm-router"), *_router_options(place)))

    return System(name="vllm-router", version=version, command=command)


def smg(folder: Path) -> System:
    version = "1.13.0"
    programs = venv(folder, "smg", version)

    def command(place: Place) -> Command:
        argv = (str(programs / "smg"), "launch", *_router_options(place))
        return Command(argv=(*argv, "--prometheus-port", str(free_port())))

    return System(name="smg", version=version, command=command)


def _router_options(place: Place) -> tuple[str, ...]:
    worker = ("--worker-urls", place.worker, "--policy", "round_robin")
    return (*worker, "--host", "127.0.0.1", "--port", str(place.port), "--log-level", "error")


def rllm(folder: Path) -> System:
    version = "0.1.0"
    programs = venv(folder, "rllm-model-gateway", version, "uvloop", "httptools")

    def command(place: Place) -> Command:
        here = ("--host", "127.0.0.1", "--port", str(place.port), "--worker", f"{place.worker}/v1")
        store = ("--store", "sqlite", "--db-path", str(place.folder / "rllm.db"))
        argv = (str(programs / "rllm-model-gateway"), *here, *store, "--log-level", "ERROR")
        return Command(argv=argv, path=f"/sessions/%s{CHAT}")

    return System(name="rllm", version=version, command=command)


def litellm(folder: Path) -> System:
    version = "1.106.2"
    programs = venv(folder, "litellm[proxy]", version)
    environment = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }

    def command(place: Place) -> Command:
        text = LITELLM.format(worker=place.worker)
        file = place.folder / "litellm.yaml"
        file.write_text(text)
        here = ("--host", "127.0.0.1", "--port", str(place.port))
        argv = (str(programs / "litellm"), "--config", str(file), *here)
        return Command(argv=argv, environment=environment, wait=180, configuration=text)

    return System(name="litellm", version=version, command=command)


PEERS: Mapping[str, Peer] = {
    "floor": floor,
    "nginx": nginx,
    "nginx-dav": nginx_dav,
    "vllm-router": vllm_router,
    "smg": smg,
    "rllm": rllm,
    "litellm": litellm,
}
