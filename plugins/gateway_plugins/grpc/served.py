"""What is served, by whichever transport: the methods, and what carries their RPCs."""

from gateway import Host
from gateway_plugins.grpc.edge.answers import Method
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.options import Options
from gateway_plugins.grpc.rpcs import Rpcs
from gateway_plugins.grpc.services.llm.methods import Chat
from gateway_plugins.grpc.services.llm.request import Mapping


class Served:
    """The methods that are calls, the descriptors of their messages, and the RPCs that run."""

    def __init__(self, host: Host, options: Options) -> None:
        self.messages = Messages()
        self.rpcs = Rpcs(host, log_calls=options.log_calls)
        mapping = Mapping(options.default_model or host.config.model, options.empty_system)
        self.methods: list[Method] = [
            Chat(self.messages, mapping, streams) for streams in (False, True)
        ]

    @property
    def services(self) -> set[str]:
        """The full names of the services that the methods belong to."""
        return {method.name[1:].partition("/")[0] for method in self.methods}
