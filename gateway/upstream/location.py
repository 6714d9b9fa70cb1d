"""Places that a worker's response refers to, said so that they lead through the gateway."""

from urllib.parse import SplitResult, urlsplit

from gateway.config import DEFAULT_PORTS
from gateway.headers import Headers, Lines

REFERENCES = frozenset({b"location", b"content-location"})


def references(headers: Headers, path: str, url: str, api_path: str) -> Lines:
    """Return the lines of a worker's response that name a URL, as `through_gateway` leads them."""
    found = [line for line in headers if line[0] in REFERENCES]
    led = [
        (name, through_gateway(value.decode("latin-1"), path, url, api_path))
        for name, value in found
    ]
    return [(name, place.encode("latin-1")) for name, place in led if place is not None]


def through_gateway(reference: str, path: str, url: str, api_path: str) -> str | None:
    """Return a worker's `reference` as a caller may follow it; None if it leads elsewhere.

    `path` is that of the call, `url` and `api_path` are the worker's. The result is relative to the
    request's own URL, so a prefix such as `/sessions/{id}` stays. No other address is passed on: it
    may be the worker's, by another name.
    """
    if "\\" in reference:
        return None  # a browser reads `\\host` as `//host`
    try:
        parts = urlsplit(reference)
        if (parts.scheme or parts.netloc) and _origin(parts) != _origin(urlsplit(url)):
            return None
    except ValueError:
        return None
    if not (parts.netloc or reference.startswith("/")):
        return reference
    place = _relative(path, _at_gateway(parts.path or "/", api_path))
    return parts._replace(scheme="", netloc="", path=place).geturl()


def _origin(parts: SplitResult) -> tuple[str | None, int | None]:
    return parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


def _at_gateway(path: str, api_path: str) -> str:
    below = path.removeprefix(api_path)
    return f"/v1{below}" if below != path and below[:1] in ("", "/") else path


def _relative(base: str, target: str) -> str:
    """Return the reference that leads from the path `base` to the path `target`."""
    here, there = base.split("/")[:-1], target.split("/")
    common = 0
    while common < min(len(here), len(there) - 1) and here[common] == there[common]:
        common += 1
    way = "/".join([".."] * (len(here) - common) + there[common:])
    return way if way.startswith("..") else f"./{way}"
