"""How one worker is probed: its own path and expectations, or those of a kind of server."""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from gateway.config.conversion import FieldError
from gateway.config.hints import Note

Text = Annotated[str, Meta(min_length=1), Note(expected="text that is not empty")]
ProbePath = Annotated[
    str, Meta(pattern=r'^/[!"$-z|~]*(?![\s\S])'), Note(expected='a path like "/health"')
]
ProbeStatus = Annotated[int, Meta(ge=200, le=599), Note(expected="a status from 200 to 599")]

Preset = Literal[
    "vllm",
    "sglang",
    "tgi",
    "llama.cpp",
    "ollama",
    "litellm",
    "vllm-router",
    "smg",
    "gateway",
    "openai",
]

PRESET_PATHS: dict[Preset, str] = {
    "vllm": "/health",
    "sglang": "/v1/models",
    "tgi": "/health",
    "llama.cpp": "/health",
    "ollama": "/api/version",
    "litellm": "/health/liveliness",
    "vllm-router": "/readiness",
    "smg": "/readiness",
    "gateway": "/ready",
    "openai": "/v1/models",
}
"""Path that runs no generation and, where a server has one, tells whether a model is behind it.

All respond with 200 if they are well. `/health` of SGLang runs a generation of one token unless its
environment forbids it, that of LiteLLM a completion of each model; `/health` of the routers is
about themselves.
"""

PROBE = f"true, false, a mapping, or one of {', '.join(get_args(Preset))}"


class WorkerProbe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the worker is probed; a field that is left out is that of `preset`, else of `probes`."""

    preset: Annotated[
        Preset | None, Meta(description="Kind of server, which has a path and a status.")
    ] = None
    path: Annotated[ProbePath | None, Meta(description="Path to request.")] = None
    method: Annotated[
        Literal["GET", "HEAD", "POST"], Meta(description="Method of the request, without a body.")
    ] = "GET"
    statuses: Annotated[
        tuple[ProbeStatus, ...],
        Meta(
            description="Statuses that are a success; default: 200 with a preset, else below 500."
        ),
    ] = ()
    body: Annotated[
        Text | None, Meta(description="Text that the body of a good response contains.")
    ] = None

    def __post_init__(self) -> None:
        if self.method == "HEAD" and self.body is not None:
            raise FieldError("a response to HEAD has no body; use GET", "body")


class Expected(msgspec.Struct, frozen=True):
    """One probe: the request, and what a good response is like."""

    path: str
    method: str = "GET"
    statuses: tuple[int, ...] = ()
    body: bytes = b""

    def mistake(self, status: int, body: bytes) -> str | None:
        """Return what is wrong with a response, None if nothing is."""
        good = status in self.statuses if self.statuses else status < 500
        if not good:
            return f"the answer's status is {status}"
        return None if self.body in body else "the answer lacks the expected text"


def expected(probe: bool | Preset | WorkerProbe, path: str) -> Expected | None:
    """Return the probe of a worker, None if it is not probed; `path` is that of `probes`."""
    if isinstance(probe, bool):
        return Expected(path) if probe else None
    if not isinstance(probe, WorkerProbe):
        probe = WorkerProbe(preset=probe)
    if probe.preset is not None:
        path = PRESET_PATHS[probe.preset]
    statuses = probe.statuses or ((200,) if probe.preset else ())
    return Expected(probe.path or path, probe.method, statuses, (probe.body or "").encode())
