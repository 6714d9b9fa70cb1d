"""Before a trace is stored, tag it with the tools it called; drop the text of failed calls."""

from gateway import Trace, hookimpl


def tools_called(trace: Trace) -> list[str]:
    messages = [choice.message or {} for choice in trace.choices]
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    return sorted({call["function"]["name"] for call in calls if "function" in call})


@hookimpl
def redact_trace(trace: Trace) -> None:
    trace.metadata["tools"] = tools_called(trace)
    trace.metadata["long"] = len(trace.completion_token_ids) > 1_000
    if trace.delivery.status >= 400:
        trace.messages, trace.raw_request, trace.raw_response = [], None, None
