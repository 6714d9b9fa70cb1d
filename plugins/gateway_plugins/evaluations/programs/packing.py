"""Reads what evaluations return, and writes it to files that are read line by line.

    python -I packing.py pack|write PLAN

PLAN is a JSON object. It has `result`, the file of the result, and `stdout`, in which the result is
if there is no such file; and `folder`, for the files that are written.

`pack` is for what `prepare` returned: `model`; `most`, the items there may be; `longest`, the bytes
of an item; `reasoning`, the tokens that each generation may have at least, or null. Written are
`requests.jsonl`, as `prepare` made them; `bodies.jsonl`, as they are sent; `metadata.json`; and
`prepared.json` with the `total` and `max_concurrency`.

`write` is for what `score` returned: `requests`, `responses` and `metadata`, the files that it was
given; `record`, the members that come before the metrics; `errors`, the `http_errors` of the
details; `name`. Written are the files of results. Exit status 0, or 1 with the reason on standard
error.
"""

import json
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

Object = dict[str, Any]

SHOWN = 1_000
"""Items in the file for people."""

LONGEST = 20_000
"""Characters of a text in the file for people."""


class Mistake(Exception):
    """The result cannot be used; the message says why."""


def main() -> int:
    """Do what the arguments say."""
    plan: Object = json.loads(sys.argv[2])
    do = pack if sys.argv[1] == "pack" else write
    try:
        do(plan, read(Path(plan["result"]), Path(plan["stdout"])))
    except Mistake as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except MemoryError:
        sys.stderr.write("the result does not fit into the memory that is allowed\n")
        return 1
    return 0


def read(result: Path, stdout: Path) -> Object:
    """Return the result of a step: of its file, else the last JSON object on standard output.

    Numbers that JSON does not have, such as NaN, become null. Raises Mistake.
    """
    if result.exists():
        found = parse(result.read_text(encoding="utf-8", errors="replace"))
        if found is None:
            raise Mistake("the file of EVAL_RESULT_FILE is no JSON object")
        return found
    text = stdout.read_text(encoding="utf-8", errors="replace")
    whole = parse(text)
    if whole is not None:
        return whole
    for line in reversed(text.splitlines()):
        if line.strip() and (last := parse(line)) is not None:
            return last
    raise Mistake("there is no JSON object, neither in EVAL_RESULT_FILE nor on standard output")


def parse(text: str) -> Object | None:
    """Return a JSON object, None if the text is none."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if abs(number) != float("inf") else None


def pack(plan: Object, result: Object) -> None:
    """Write the files. Raises Mistake."""
    requests, metadata = result.get("requests"), result.get("metadata") or {}
    if not isinstance(requests, list) or not isinstance(metadata, dict):
        raise Mistake("the result has no list `requests`, or `metadata` is no object")
    if not 0 < len(requests) <= plan["most"]:
        raise Mistake(f"there are {len(requests)} requests; from 1 to {plan['most']} are possible")
    folder = Path(plan["folder"])
    with (
        (folder / "requests.jsonl").open("w", encoding="ascii") as kept,
        (folder / "bodies.jsonl").open("w", encoding="ascii") as sent,
    ):
        for number, request in enumerate(requests):
            body = line(body_of(request, number, plan))
            if len(body) > plan["longest"]:
                raise Mistake(f"request {number} has more than {plan['longest']} bytes")
            kept.write(line(request))
            sent.write(body)
    prepared = {"total": len(requests), "max_concurrency": _most(metadata)}
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="ascii")
    (folder / "prepared.json").write_text(json.dumps(prepared), encoding="ascii")


def _most(metadata: Object) -> int | None:
    most = metadata.get("max_concurrency")
    if most is None:
        return None
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise Mistake(f"metadata.max_concurrency is {most!r}, and must be an integer from 1 on")
    return most


def line(value: object) -> str:
    """Return a value as a line of JSON."""
    return json.dumps(value, separators=(",", ":")) + "\n"


def body_of(request: object, number: int, plan: Object) -> Object:
    """Return a request as it is sent: with the model, without what is the evaluation's own."""
    if not isinstance(request, dict):
        raise Mistake(f"request {number} is no object")
    if "messages" not in request and "prompt" not in request:
        raise Mistake(f"request {number} has neither `messages` nor `prompt`")
    body = {name: value for name, value in request.items() if not name.startswith("_")}
    body["model"] = plan["model"]
    if plan["reasoning"] is not None and generates(request):
        _raise_tokens(body, plan["reasoning"])
    return body


def generates(request: Object) -> bool:
    """Whether a request is for text, and not for the likelihoods of its own prompt."""
    return not request.get("echo") and request.get("max_tokens") != 0


def _raise_tokens(body: Object, least: int) -> None:
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    tokens = body.get(name)
    if not isinstance(tokens, int) or tokens < least:
        body[name] = least
    for asked in ("logprobs", "top_logprobs"):
        body.pop(asked, None)


def write(plan: Object, result: Object) -> None:
    """Write the files. Raises Mistake."""
    metrics, details = result.get("metrics"), result.get("details") or {}
    if not isinstance(metrics, dict) or not isinstance(details, dict):
        raise Mistake("the result has no object `metrics`, or `details` is no object")
    details["http_errors"] = plan["errors"]
    metadata = result.get("metadata")
    if not isinstance(metadata, dict):
        metadata = json.loads(Path(plan["metadata"]).read_text(encoding="utf-8"))
    folder, name = Path(plan["folder"]), plan["name"]
    whole = {**plan["record"], "metrics": metrics, "metadata": metadata, "details": details}
    text = json.dumps(whole, indent=2)
    (folder / f"{name}_results.json").write_text(text, encoding="ascii")
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="ascii")
    (folder / "details.json").write_text(json.dumps(details), encoding="ascii")
    _write_items(plan, folder, name)


def _write_items(plan: Object, folder: Path, name: str) -> None:
    with (
        (folder / f"{name}_interactions.txt").open("w", encoding="utf-8") as people,
        (folder / f"{name}_analysis.jsonl").open("w", encoding="ascii") as analysis,
        (folder / f"{name}_debug.jsonl").open("w", encoding="ascii") as debug,
    ):
        for index, (request, response) in enumerate(_pairs(plan)):
            debug.write(line({"index": index, "request": request, "response": response}))
            analysis.write(line(_analysis(index, request, response)))
            if index < SHOWN:
                people.write(_shown(index, request, response))


def _pairs(plan: Object) -> Iterator[tuple[Object, Object]]:
    with (
        Path(plan["requests"]).open(encoding="utf-8") as requests,
        Path(plan["responses"]).open(encoding="utf-8") as responses,
    ):
        for request, response in zip_longest(requests, responses, fillvalue="{}"):
            yield json.loads(request), json.loads(response)


def _analysis(index: int, request: Object, response: Object) -> Object:
    choice = _choice(response)
    return {
        "index": index,
        "prompt": request.get("messages", request.get("prompt")),
        "text": _text(choice),
        "finish_reason": choice.get("finish_reason"),
        "usage": response.get("usage"),
        "error": response.get("error"),
        "error_code": response.get("error_code"),
    }


def _choice(response: Object) -> Object:
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, dict) else {}


def _text(choice: Object) -> Any:
    message = choice.get("message")
    return message.get("content") if isinstance(message, dict) else choice.get("text")


def _shown(index: int, request: Object, response: Object) -> str:
    prompt = request.get("messages", request.get("prompt"))
    asked = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    answer = response.get("error", _text(_choice(response)))
    said = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    shown = f"=== {index}\n--- request\n{asked[:LONGEST]}\n--- response\n{said[:LONGEST]}\n\n"
    return shown.encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    sys.exit(main())
