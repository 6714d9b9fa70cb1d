"""All targets: a part of the kernel adds its own here."""

from collections.abc import Callable, Mapping

from fuzz.http_targets import Heads, WholeRequests, WholeResponses
from fuzz.injection_targets import PlainAnswers
from fuzz.record_targets import Answers, Numbers
from fuzz.request_targets import Requests
from fuzz.stream_targets import Events, Responses, Strips
from fuzz.target import Target
from fuzz.usage_targets import Usages

TARGETS: Mapping[str, Callable[[], Target]] = {
    one.name: one
    for one in (
        *(Answers, Numbers, PlainAnswers, Requests, Usages, Events, Strips, Responses),
        *(WholeRequests, WholeResponses, Heads),
    )
}
