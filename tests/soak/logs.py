"""What a gateway says on standard error: calls are counted, all else is told apart by its kind."""

import re
from collections import Counter

import msgspec

ACCESS = b'{"time":1'
"""How a line of the access log begins: its time is a number."""

VARIES = re.compile(r"(?:steady|troubled)-\d+|0x[0-9a-f]+|(?:[0-9a-f]{8,}|call-\d+-\d+)|\d[\d.]*")
GRAVE = ("error", "critical")
KINDS = 200

EXPECTED = re.compile(r"the reload failed, nothing was changed: .*gateway\.yaml:\d+: not YAML")
"""What is said of the file that the soak has spoilt."""


class Line(msgspec.Struct):
    level: str = ""
    logger: str = ""
    message: str = ""
    errors: list[dict[str, object]] = []


class Log:
    """`kinds` are how often each was said; `grave` are lines that no soak should see."""

    def __init__(self) -> None:
        self.calls = 0
        self.kinds: Counter[str] = Counter()
        self.grave: list[str] = []

    def take(self, line: bytes) -> None:
        if line.startswith(ACCESS):
            self.calls += 1
            return
        try:
            said = msgspec.json.decode(line, type=Line)
        except msgspec.DecodeError:
            self._take("raw", line.decode(errors="replace"), grave=True)
            return
        grave = bool(said.errors) or said.level in GRAVE
        grave = grave and not EXPECTED.match(said.message)
        self._take(f"{said.level} {said.logger}", f"{said.message} {said.errors or ''}", grave)

    def _take(self, whence: str, message: str, grave: bool) -> None:
        kind = f"{whence}: {VARIES.sub('N', message)[:200].strip()}"
        if kind in self.kinds or len(self.kinds) < KINDS:
            self.kinds[kind] += 1
        if grave and len(self.grave) < KINDS:
            self.grave.append(f"{whence}: {message.strip()}"[:1000])
