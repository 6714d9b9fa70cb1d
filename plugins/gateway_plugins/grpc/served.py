"""What is served, by whichever transport: the methods, and what carries the RPCs of each."""

from collections.abc import Awaitable, Callable
from functools import partial

from gateway import Host
from gateway_plugins.grpc.edge.answers import Method
from gateway_plugins.grpc.edge.context import Context
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.options import Options
from gateway_plugins.grpc.rpcs import Rpcs
from gateway_plugins.grpc.services.control import abort
from gateway_plugins.grpc.services.control.models import ListModels
from gateway_plugins.grpc.services.generate.method import Generate
from gateway_plugins.grpc.services.json.call import JsonCall
from gateway_plugins.grpc.services.llm.methods import Chat
from gateway_plugins.grpc.services.llm.request import Mapping
from gateway_plugins.grpc.status import Status

Serve = Callable[[Context], Awaitable[tuple[Status, int]]]
"""Carries one RPC; returns how it ended, and after how many messages."""


class Served:
    """`methods` are those that identify their callers, by the path of each."""

    def __init__(self, host: Host, options: Options) -> None:
        self.messages = messages = Messages()
        self.rpcs = Rpcs(host, log_calls=options.log_calls)
        mapping = Mapping(options.default_model or host.config.model, options.empty_system)
        calls: list[Method] = [
            *(Chat(messages, mapping, streams) for streams in (False, True)),
            JsonCall(messages, host),
            Generate(messages, mapping.default_model),
            ListModels(messages),
        ]
        self.methods: dict[str, Serve] = {
            method.name: partial(self.rpcs.carry, method) for method in calls
        }
        self.methods[abort.NAME] = abort.Abort(host, messages).serve

    @property
    def services(self) -> set[str]:
        """The full names of the services that the methods belong to."""
        return {name[1:].partition("/")[0] for name in self.methods}
