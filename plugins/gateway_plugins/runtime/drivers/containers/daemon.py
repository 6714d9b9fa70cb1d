"""A Docker daemon, by its SDK. All of it blocks, and is for threads other than the event loop's.

DaemonError       the daemon refused, and says why
├── DaemonAway    it cannot be reached, or does not answer in time
└── SdkMissing    the Docker SDK is not installed
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from http import HTTPStatus
from math import ceil
from time import monotonic, sleep
from traceback import clear_frames
from typing import Any, TypeVar

import msgspec

from gateway_plugins.runtime.drivers.driver import Exit

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds for a daemon's answer: it creates no container within a second if its disk is slow."""


class DaemonError(Exception):
    pass


class DaemonAway(DaemonError):
    pass


class SdkMissing(DaemonError):
    def __init__(self) -> None:
        super().__init__(
            "models with `docker` need the Docker SDK: pip install 'llm-call-gateway[docker]'"
        )


class State(msgspec.Struct, rename="pascal"):
    """The state of a container, as far as the daemon tells it to be of use."""

    running: bool
    exit_code: int
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    status: str = ""


class _Configuration(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None


class Found(msgspec.Struct, rename="pascal"):
    """A container that is there."""

    id: str
    name: str
    state: State
    config: _Configuration

    @property
    def labels(self) -> Mapping[str, str]:
        return self.config.labels or {}


class Following:
    """The output of a container as it comes, over a connection of its own."""

    def __init__(self, stream: Any, connection: ExitStack) -> None:
        self._stream = stream
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        """Wait for each piece without a limit of time, until the container ends or `cancel`."""
        with suppress(ValueError):  # the SDK waits at a socket that was closed meanwhile
            yield from self._stream

    def cancel(self) -> None:
        """End the output, in whichever thread it is read."""
        with suppress(AttributeError, OSError):  # the SDK looks for a socket that may have gone
            self._stream.close()

    def close(self) -> None:
        """Close the connection, once nobody reads any more."""
        self.cancel()
        with suppress(AttributeError, OSError):  # the SDK leaves it to the garbage collector
            self._stream._response.close()
        self._connection.close()


class Daemon:
    """The daemon at `host`; None: DOCKER_HOST of the environment, or the usual socket.

    Each method may raise DaemonError, and takes about `timeout` seconds at most unless it says
    otherwise. A container is named by its id or its name.
    """

    def __init__(self, host: str | None = None, timeout: float = TIMEOUT) -> None:
        self._host = host
        self._timeout = timeout

    def create(self, arguments: Mapping[str, object]) -> str:
        """Create a container and return its id."""
        with self._client() as client:
            return str(client.containers.create(**arguments).id)

    def start(self, container: str) -> None:
        with self._client() as client:
            client.api.start(container)

    def attach(self, container: str) -> Following:
        """Follow what a container that has not started will print.

        The daemon's log is no such source: it is rotated away under a reader that is slow.
        """
        return self._following(lambda client: client.api.attach(container, stream=True))

    def logs(self, container: str, since: float) -> Following:
        """Follow what a running container prints, and has since `since` (seconds since 1970)."""
        return self._following(
            lambda client: client.api.logs(container, stream=True, follow=True, since=since)
        )

    def find(self, container: str) -> Found | None:
        def inspect(client: Any) -> Found:
            return msgspec.convert(client.api.inspect_container(container), Found)

        return self._of_one(inspect)

    def labelled(self, labels: Mapping[str, str]) -> list[str]:
        """Return the ids of the containers that have all these labels, running or not."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with self._client() as client:
            found = client.api.containers(all=True, filters={"label": wanted})
            return [str(one["Id"]) for one in found]

    def stop(self, container: str, grace: float) -> None:
        """Ask a container to end, kill it after `grace` seconds, and return when it has ended."""
        self._of_one(lambda client: client.api.stop(container, timeout=ceil(grace)))

    def remove(self, container: str) -> None:
        """Remove a container with its volumes that have no name; kill it if it runs.

        Returns when it is not there any more, even if another removal has begun before.
        """
        self._of_one(lambda client: client.api.remove_container(container, force=True, v=True))
        deadline = monotonic() + self._timeout
        while self.find(container) is not None:
            if monotonic() > deadline:
                raise DaemonError(f"the container {container} was removed and is still there")
            sleep(0.05)

    def wait(self, container: str, timeout: float) -> Exit | None:
        """Return how a container ended, or None if it still runs after `timeout` seconds."""
        code = self._of_one(lambda client: _code(client, container, timeout))
        found = self.find(container)
        if found is None:
            return Exit(code)
        return None if found.state.running else Exit(found.state.exit_code, found.state.oom_killed)

    def _following(self, open_stream: Callable[[Any], Any]) -> Following:
        with ExitStack() as connection:
            stream = open_stream(connection.enter_context(self._client()))
            return Following(stream, connection.pop_all())

    def _of_one(self, request: Callable[[Any], T]) -> T | None:
        """Make a request about one container; None if it is not there or is being removed."""
        docker, _ = _sdk()
        with self._client() as client:
            try:
                return request(client)
            except docker.errors.NotFound:
                return None
            except docker.errors.APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                return None

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """Give a client of the SDK for one request; its errors become DaemonErrors."""
        docker, requests = _sdk()
        try:
            with closing(self._connected(docker)) as client:
                yield client
        except docker.errors.APIError as error:
            raise DaemonError(str(error.explanation or error)) from None
        except (docker.errors.DockerException, requests.RequestException) as error:
            _let_go(error)
            raise DaemonAway(str(error)) from None
        except (msgspec.ValidationError, ValueError, LookupError, TypeError) as error:
            raise DaemonError(f"the daemon's answer is not understood: {error!r}") from None

    def _connected(self, docker: Any) -> Any:
        if self._host is None:
            return docker.from_env(timeout=self._timeout)
        return docker.DockerClient(base_url=self._host, timeout=self._timeout)


def _sdk() -> tuple[Any, Any]:
    """Return the SDK, and the HTTP client whose errors it lets through."""
    try:
        import docker
        import requests
    except ImportError:
        raise SdkMissing from None
    return docker, requests


def _let_go(error: BaseException | None) -> None:
    """The SDK leaves a socket that could not connect in a frame of what it raises."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__


def _code(client: Any, container: str, timeout: float) -> int | None:
    """Return the exit code, None if it takes too long or the connection breaks.

    The SDK does not tell one from the other.
    """
    docker, requests = _sdk()
    try:
        return int(client.api.wait(container, timeout=timeout)["StatusCode"])
    except docker.errors.APIError:
        raise
    except requests.RequestException:
        return None
