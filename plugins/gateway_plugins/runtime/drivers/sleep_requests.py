"""The requests by which a vLLM is put to sleep and woken.

Its development endpoints have to be on: `VLLM_SERVER_DEV_MODE=1` and `--enable-sleep-mode`.
"""

import asyncio

import msgspec
from httpx import AsyncClient, HTTPError, InvalidURL, Response

SLEEP = 120.0
"""Seconds to fall asleep: the weights go to the machine's memory at level 1."""

WAKE = 600.0
"""Seconds for each step of waking: at level 2 the weights are loaded from the disk."""

ASK = 10.0

MAX_BODY = 65_536

RELOAD = b'{"method":"reload_weights"}'


class SleepFailed(Exception):
    """The engine did not fall asleep, or did not wake; the text says why."""


class Gone(SleepFailed):
    """Nothing answers at the engine's address."""


class _Sleeping(msgspec.Struct):
    is_sleeping: bool


class SleepRequests:
    """The requests for the engine at `url`. All raise SleepFailed."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")

    async def is_sleeping(self) -> bool:
        body = await self._send("GET", "/is_sleeping", ASK)
        try:
            return msgspec.json.decode(body, type=_Sleeping).is_sleeping
        except msgspec.DecodeError as error:
            raise SleepFailed(f"the answer of {self._url}/is_sleeping: {error}") from None

    async def sleep(self, level: int) -> None:
        """Put the engine to sleep. Calls that still run are aborted."""
        await self._send("POST", f"/sleep?level={level}", SLEEP)
        if not await self.is_sleeping():
            raise SleepFailed(f"{self._url} is awake after POST /sleep")

    async def wake(self, level: int) -> None:
        """Wake an engine that sleeps at `level`, at 2 with weights loaded anew.

        After level 2 the memory of the weights is there again but not what was in it, so the calls
        that wait may not begin before the weights are loaded: the cache comes last.
        """
        if level == 1:
            await self._send("POST", "/wake_up", WAKE)
        else:
            await self._send("POST", "/wake_up?tags=weights", WAKE)
            await self._send("POST", "/collective_rpc", WAKE, RELOAD)
            await self._send("POST", "/wake_up?tags=kv_cache", WAKE)
        if await self.is_sleeping():
            raise SleepFailed(f"{self._url} sleeps after POST /wake_up")

    async def _send(self, method: str, path: str, patience: float, body: bytes = b"") -> bytes:
        """Return the body of the answer."""
        what = f"{method} {self._url}{path}"
        headers = {"content-type": "application/json"} if body else {}
        try:
            async with asyncio.timeout(patience), _client() as client:
                asked = client.stream(method, self._url + path, content=body, headers=headers)
                async with asked as answer:
                    return _checked(answer.status_code, await _read(answer), what)
        except TimeoutError:
            raise SleepFailed(f"{what}: no answer within {patience:g} s") from None
        except (HTTPError, InvalidURL) as error:
            raise Gone(f"{what}: {error}") from None


def _client() -> AsyncClient:
    """No proxy of the environment is between the gateway and its engines."""
    return AsyncClient(timeout=None, trust_env=False)


async def _read(answer: Response) -> bytes:
    """Return the beginning of the body, which is all that an engine has to say."""
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY:
            break
    return bytes(body[:MAX_BODY])


def _checked(status: int, body: bytes, what: str) -> bytes:
    if status == 404:
        raise SleepFailed(
            f"{what}: 404. Start the engine with VLLM_SERVER_DEV_MODE=1 in its environment and "
            "with --enable-sleep-mode"
        )
    if status != 200:
        raise SleepFailed(f"{what}: {status} {body[:500].decode(errors='replace')}")
    return body
