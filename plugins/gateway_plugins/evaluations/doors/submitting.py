"""POST /eval/submit: checks what is asked for, and adds a job."""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from gateway import (
    BadRequest,
    ControlRequest,
    Database,
    Forbidden,
    Host,
    NotFound,
    Principal,
    TooManyRequests,
)
from gateway_plugins.evaluations.children.repository import Evaluation
from gateway_plugins.evaluations.engine import Engine
from gateway_plugins.evaluations.rows import jobs
from gateway_plugins.evaluations.rows.jobs import NewJob
from gateway_plugins.evaluations.running.templates import template_of

MODEL = re.compile(r"[A-Za-z0-9._-]{1,96}(/[A-Za-z0-9._-]{1,96})?(:[A-Za-z0-9._-]{1,96})?")
"""The hub's names, and what is behind a colon in the names of adapters."""

ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

MAX_ARGUMENTS, MAX_ARGUMENT = 50, 10_000
"""Arguments of a job, and characters of each as JSON."""

SHOWN = 200
"""Characters of a name that an error repeats."""


class Submission(msgspec.Struct):
    """What a caller submits. `reasoning`: None: as the model's chat template says."""

    model: str
    evals: list[str] | None = None
    prepare_args: dict[str, Raw] | None = None
    is_base_model: bool | None = None
    reasoning: bool | None = None
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0


class Submitted(msgspec.Struct):
    """What a caller gets."""

    job_id: str
    model: str
    status: str
    message: str
    requested_evals: list[str] | None
    prepare_args: dict[str, Raw] | None
    is_base_model: bool | None


class Submitting:
    """Adds jobs for the callers of `gateway`."""

    def __init__(self, gateway: Host, engine: Callable[[], Engine]) -> None:
        self._gateway = gateway
        self._engine = engine

    async def submit(self, request: ControlRequest) -> Submitted:
        """Add a job. Raises BadRequest, Forbidden, NotFound, TooManyRequests, Unlistable."""
        asked, engine = await request.json(Submission), self._engine()
        await self._check_model(asked.model, request.principal)
        cache = engine.options.models
        template = await asyncio.to_thread(template_of, asked.model, cache)
        is_base = template.is_base or False
        if asked.is_base_model is not None:
            is_base = asked.is_base_model
        chosen = _chosen(await engine.evaluations(), asked.evals, is_base)
        arguments = _arguments(asked.prepare_args or {}, chosen)
        principal = request.principal
        new = NewJob(
            id=f"eval_{secrets.token_hex(6)}",
            owner="" if principal is None else principal.id,
            principal=None if principal is None else msgspec.json.encode(principal).decode(),
            model=asked.model,
            created=time.time(),
            names=[one.name for one in chosen],
            named=asked.evals is not None,
            arguments=arguments,
            is_base_override=asked.is_base_model,
            is_base=is_base,
            reasoning=template.reasons if asked.reasoning is None else asked.reasoning,
            priority=asked.priority,
            traceparent=request.traceparent,
        )
        most = engine.options.max_unfinished_per_key
        await engine.storage.write(lambda db: _add(db, new, most))
        engine.conductor.wake()
        count = len(chosen)
        return Submitted(
            new.id,
            asked.model,
            "submitted",
            f"{count} evaluation{'s' * (count != 1)} of {asked.model} will run",
            asked.evals,
            asked.prepare_args,
            asked.is_base_model,
        )

    async def _check_model(self, model: str, principal: Principal | None) -> None:
        check_name(model)
        if principal is not None and principal.models is not None and model not in principal.models:
            message = f"this key is not for the model `{model}`"
            raise Forbidden(message, param="model", code="model_not_allowed")
        if not self._is_served(model):
            await self._gateway.workers.refresh_models()  # it may have been loaded just now
            if not self._is_served(model):
                message = f"The model `{model}` does not exist: no worker serves it."
                raise NotFound(message, param="model", code="model_not_found")

    def _is_served(self, model: str) -> bool:
        """Whether a worker has the model, or may get it; so says, too, a gateway with none."""
        workers = self._gateway.workers
        there = bool(workers.serving(model).all) or workers.may_load(model)
        return there or not (workers.all or workers.loadable)


def check_name(model: str) -> None:
    """Raise BadRequest if this cannot be the name of a model: it becomes a part of paths."""
    parts = re.split("[/:]", model)
    bad = ".." in model or "--" in model or any(_is_bad(part) for part in parts)
    if bad or not MODEL.fullmatch(model):
        raise BadRequest(
            f"`model` is {model[:SHOWN]!r}; a name has letters, digits, '.', '_' and '-', and at"
            " most one '/'",
            param="model",
        )


def _is_bad(part: str) -> bool:
    return part.startswith((".", "-")) or part.endswith((".", "-"))


def _chosen(
    known: Sequence[Evaluation], names: Sequence[str] | None, is_base: bool
) -> list[Evaluation]:
    """Return the evaluations to run. Raises BadRequest, which names those that are not there."""
    if names is None:
        found = [one for one in known if one.default]
        found = [one for one in found if not (is_base and one.requires_instruction_model)]
        if not found:
            raise BadRequest("the repository of evaluations has no default evaluation to run")
        return found
    by_name = {one.name: one for one in known}
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        named = ", ".join(repr(name[:SHOWN]) for name in missing[:10]) or "nothing"
        raise BadRequest(
            f"`evals` names {named}, and there are: {', '.join(by_name) or 'none'}", param="evals"
        )
    return [by_name[name] for name in dict.fromkeys(names)]


def _arguments(given: Mapping[str, Raw], chosen: Sequence[Evaluation]) -> dict[str, str]:
    """Return arguments as JSON texts. Raises BadRequest if an evaluation does not accept one."""
    if len(given) > MAX_ARGUMENTS:
        message = f"`prepare_args` has more than {MAX_ARGUMENTS} members"
        raise BadRequest(message, param="prepare_args")
    arguments = {name: _text(name, value) for name, value in given.items()}
    for name, text in arguments.items():
        if not ARGUMENT.fullmatch(name) or len(text) > MAX_ARGUMENT:
            raise _unfit(name, "is no argument of an evaluation, or too long")
        if name == "max_prompts" and not _is_count(text):
            raise _unfit(name, "must be an integer from 1 on")
        if name == "use_english" and text not in ("true", "false"):
            raise _unfit(name, "must be true or false")
        for one in chosen:
            if one.arguments is not None and name not in one.arguments:
                accepted = ", ".join(one.arguments) or "none"
                raise _unfit(name, f"is not accepted by {one.name}, which accepts: {accepted}")
    return arguments


def _text(name: str, value: Raw) -> str:
    try:
        return bytes(value).decode()  # msgspec does not look into what is passed on
    except UnicodeDecodeError:
        raise _unfit(name, "is not UTF-8") from None


def _is_count(text: str) -> bool:
    try:
        number = json.loads(text)
    except ValueError:
        return False
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 10**9


def _unfit(name: str, problem: str) -> BadRequest:
    shown = name[:SHOWN]
    return BadRequest(f"`prepare_args.{shown}` {problem}", param=f"prepare_args.{shown}")


def _add(db: Database, new: NewJob, most: int) -> None:
    if jobs.unfinished_of(db, new.owner) >= most:
        raise TooManyRequests(
            f"this key has {most} evaluation jobs that have not ended, and may have no more"
            " (max_unfinished_per_key)"
        )
    jobs.add(db, new)
