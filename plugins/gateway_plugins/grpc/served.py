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
        self.messages = Messages()
        self.rpcs = Rpcs(host, log_calls=options.log_calls)
        self._host = host
        self._calls = self._made(options)
        self.methods: dict[str, Serve] = {name: partial(self._carry, name) for name in self._calls}
        self.methods[abort.NAME] = abort.Abort(host, self.messages).serve

    def reconfigure(self, options: Options) -> None:
        """Take new options for the RPCs that come."""
        self.rpcs.log_calls = options.log_calls
        self._calls = self._made(options)

    def _made(self, options: Options) -> dict[str, Method]:
        messages, host = self.messages, self._host
        mapping = Mapping(options.default_model or host.config.model, options.empty_system)
        calls: list[Method] = [
            *(Chat(messages, mapping, streams) for streams in (False, True)),
            JsonCall(messages, host),
            Generate(messages, mapping.default_model),
            ListModels(messages),
        ]
        return {method.name: method for method in calls}

    def _carry(self, name: str, context: Context) -> Awaitable[tuple[Status, int]]:
        return self.rpcs.carry(self._calls[name], context)

    @property
    def services(self) -> set[str]:
        """The full names of the services that the methods belong to."""
        return {name[1:].partition("/")[0] for name in self.methods}
