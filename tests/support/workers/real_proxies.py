"""nginx and HAProxy of the machine, each in front of some engines, a port for each."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

from support.ports import free_port

Kind = Literal["nginx", "haproxy"]

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_read_timeout {timeout};
  {servers}
}}
"""
NGINX_SERVER = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {url}; }} }}"

HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server {timeout}
{servers}
"""
HAPROXY_SERVER = """
listen engine_{port}
  bind 127.0.0.1:{port}
  server only {address}
"""


def installed(kind: Kind) -> str | None:
    """The program, None if the machine does not have it."""
    return shutil.which(kind, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


@contextlib.asynccontextmanager
async def proxied(
    kind: Kind, engines: Sequence[int], folder: Path, patience: str = "30s"
) -> AsyncIterator[list[str]]:
    """URLs of the proxy, one for each engine at these ports. It waits `patience` for an answer."""
    ports = [free_port() for _ in engines]
    pairs = list(zip(ports, engines, strict=True))
    if kind == "nginx":
        made = [NGINX_SERVER.format(port=p, url=f"http://127.0.0.1:{e}") for p, e in pairs]
        text = NGINX.format(folder=folder, timeout=patience, servers="\n".join(made))
    else:
        made = [HAPROXY_SERVER.format(port=p, address=f"127.0.0.1:{e}") for p, e in pairs]
        text = HAPROXY.format(timeout=patience, servers="".join(made))
    config = folder / f"{kind}.conf"
    config.write_text(text)
    option = "-c" if kind == "nginx" else "-f"
    program = installed(kind) or kind
    running = await asyncio.create_subprocess_exec(
        program, option, str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.gather(*map(_listens, ports))
        yield [f"http://127.0.0.1:{port}/v1" for port in ports]
    finally:
        running.terminate()
        await running.wait()


async def _listens(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
