"""Refusals of Messages: Anthropic's envelope, but for those of the schema, which have the other."""

from gateway.simulator.input.refusals import Refused

_DOCS = "https://errors.pydantic.dev/2.14/v/missing"


class MessagesRefused(Refused):
    """A refusal in Anthropic's envelope."""

    def envelope(self) -> dict[str, object]:
        return {"type": "error", "error": {"type": self.kind, "message": self.message}}


def in_messages(refused: Refused) -> Refused:
    """Return `refused` as Messages sends it."""
    if refused.general:
        return refused
    made = MessagesRefused(refused.status, refused.message, refused.kind, refused.param)
    made.stream = refused.stream
    return made


def misread(refused: Refused) -> bytes:
    """Return the event with which a stream of Messages ends if the engine fails.

    The engine's translator takes chat's error for a chat event, and reports what that lacks.
    """
    error = f"'error': {{'message': '{refused.message[:2]}...am': None, 'code': {refused.status}}}"
    lack = f"Field required [type=missing, input_value={{{error}}}, input_type=dict]"
    help_ = f"For further information visit {_DOCS}"
    fields = "\n".join(f"{name}\n  {lack}\n    {help_}" for name in ("model", "choices"))
    message = f"2 validation errors for ChatCompletionStreamResponse\n{fields}"
    event = MessagesRefused(refused.status, message, "internal_error")
    return b"event: error\ndata: %b\n\n" % event.body()
