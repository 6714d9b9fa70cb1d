"""What the gateway and the program that installs say to each other, each in a line of JSON."""

import msgspec


class Job(msgspec.Struct, frozen=True):
    """An upload to install: its bytes are those of the `files`, one after the other.

    `lock` is a file that the program holds, so that no two of them are at the same upload.
    `expected` is the SHA-256 in hexadecimal digits, "": any. Sizes are in bytes.
    """

    id: str
    model: str
    owner: str
    replaces: str
    files: tuple[str, ...]
    lock: str
    cache: str
    filename: str
    expected: str
    max_ratio: float
    max_unpacked_bytes: int
    max_members: int
    keep_free: int


class Moved(msgspec.Struct, frozen=True, tag=True):
    """This part of the present state is done, from 0 to 1."""

    progress: float


class Verified(msgspec.Struct, frozen=True, tag=True):
    """The bytes are the right ones; they are installed now."""

    sha256: str


class Installed(msgspec.Struct, frozen=True, tag=True):
    """The model is in its place, with `size` bytes."""

    commit: str
    size: int
    sha256: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """There is no model in the bytes, or it cannot be installed; `text` is for people."""

    code: str
    text: str


Event = Moved | Verified | Installed | Refused


class Refusal(Exception):
    """Raised in the program, and told as Refused."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
