"""How large a soak is, and how its gateway is set up."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

SOURCES = {"ada": "realtime", "ben": "batch", "cy": "eval", "tri": "realtime"}
"""Principals who may call; the key of each is `key-` and its id."""

LAME = "lame"
"""One who may look at metrics alone."""

OPERATOR = "op"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds.

    `rate` is calls a second; 0: as many as keep the gateway's process at `busy` of a core. Of the
    workers `steady` stay well and `troubled` do not, for `spell` on average. `still` streams are
    held before the load, to see what each takes, and `idle` ones under it. Operators wait `pause`
    between two things. Calls of `warming` load all that is loaded once. A trace is deleted `keep`
    after the last call of its session. An ended call is looked up when it is `settled` old, which
    must be more than `sampled`.
    """

    seconds: float = 600.0
    rate: float = 0.0
    seed: int = 1
    busy: tuple[float, float] = (0.6, 0.8)
    callers: int = 24
    most_callers: int = 128
    steady: int = 3
    troubled: int = 2
    still: int = 400
    idle: int = 20
    idle_pause: float = 2.0
    spell: float = 4.0
    pause: float = 3.0
    sampled: float = 5.0
    settled: float = 8.0
    keep: float = 90.0
    keepalive: float = 5.0
    first_byte: float = 3.0
    warming: float = 1.0
    drain: float = 10.0
    ttft: float = 0.005
    itl: float = 0.001

    @property
    def workers(self) -> dict[str, bool]:
        """Their names, and whether they get into trouble; the spare one is not configured."""
        steady = {f"steady-{number}": False for number in range(self.steady)}
        return {**steady, **{f"troubled-{number}": True for number in range(self.troubled)}}


SPARE = "spare"


def write_keys(folder: Path) -> Path:
    def entry(key: str, *scopes: str, **labels: str) -> dict[str, Any]:
        return {"id": key, "token": f"key-{key}", "scopes": scopes, "labels": labels}

    keys = [entry(key, source, "sessions") for key, source in SOURCES.items() if key != "tri"]
    keys += [entry("tri", "realtime", tier="trial"), entry(LAME, "monitor")]
    keys += [entry(OPERATOR, "realtime", "monitor", "admin", "sessions", "sessions:all")]
    file = folder / "keys.json"
    file.write_bytes(msgspec.json.encode({"keys": keys}))
    file.chmod(0o600)
    return file


class Settings:
    """The configuration's file, JSON being YAML too, which changes in what changes nothing."""

    def __init__(self, plan: Plan, folder: Path, ports: Mapping[str, int]) -> None:
        self.file = folder / "gateway.yaml"
        self.keys = write_keys(folder)
        self.database = folder / "soak.db"
        self.log = folder / "soak.db-wal"
        self._plan = plan
        self.ports = ports

    def url(self, worker: str) -> str:
        return f"http://127.0.0.1:{self.ports[worker]}"

    def write(self, slots: int = 200, factor: float = 1.25) -> None:
        """With so many slots for each worker; a few make calls wait."""
        self.file.write_bytes(msgspec.json.encode(self._content(slots, factor)))

    def vary(self, chance: Random) -> None:
        self.write(chance.choice((64, 200)), chance.uniform(1.1, 2.0))

    def spoil(self) -> None:
        self.file.write_text(f"port: [{secrets.token_hex(4)}", encoding="ascii")

    def _content(self, slots: int, factor: float) -> dict[str, Any]:
        plan = self._plan
        return {
            "port": 0,
            "storage": {"path": str(self.database)},
            "log_format": "json",
            "workers": [{"url": self.url(one), "worker_id": one} for one in plan.workers],
            "plugins": self._plugins(slots, factor),
            "timeouts": {
                "connect": 1.0,
                "first_byte": plan.first_byte,
                "idle": 10.0,
                "keepalive": plan.keepalive,
                "drain": plan.drain,
            },
            "probes": {"interval": 1.0, "timeout": 1.0, "fall": 2, "rise": 1},
        }

    def _plugins(self, slots: int, factor: float) -> Sequence[object]:
        trial = {"requests_per_minute": 60, "burst_requests": 5, "tokens_per_day": 10**9}
        queue = {"max_length": 1000, "max_wait": 5.0}
        return [
            {"auth": {"keys_file": str(self.keys), "check_interval": 0.2}},
            {"limits": {"default": {"concurrent": 1000}, "tiers": {"trial": trial}}},
            "sessions",
            "openai_models",
            {"circuit_breaker": {"cooldown": 1.0, "max_cooldown": 4.0}},
            {"backpressure": {"max_in_flight_per_worker": slots, "queue": queue}},
            {"stickiness": {"load_factor": factor}},
            {"trace_capture": {"keep_days": self._plan.keep / 86_400}},
            "usage",
            {"metrics": {"by_principal": True}},
            "access_log",
            "soak.inside:Inside",
        ]
