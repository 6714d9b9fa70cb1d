"""Any order of requests leaves the bytes that the answers tell: a state machine."""

import base64
import hashlib
import random
from pathlib import Path

from gateway_plugins.uploads.plugin import ModelUploads
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.event_loop import Stage
from support.uploads.asking import PLUGIN, begun, head, patch
from support.uploads.slow_caller import ended, sending, stored

from gateway.config import MEMORY, Config, StorageSettings
from gateway.testing import NO_PROBES, Live, entry, live

CONTENT = random.Random(3).randbytes(5_000)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["patch", "cut", "checked", "wrong checksum", "wrong offset", "head"]),
        st.integers(0, 1_500),
    ),
    max_size=12,
)


def checksum(data: bytes) -> dict[str, str]:
    return {"upload-checksum": f"sha1 {base64.b64encode(hashlib.sha1(data).digest()).decode()}"}


async def steps(running: Live, given_steps: list[tuple[str, int]]) -> None:
    path, at = await begun(running, len(CONTENT) + 1), 0
    for kind, size in given_steps:
        data = CONTENT[at : at + size]
        if kind == "patch":
            assert (await patch(running, path, at, data)).status_code == 204
            at += len(data)
        elif kind == "checked":
            assert (await patch(running, path, at, data, **checksum(data))).status_code == 204
            at += len(data)
        elif kind == "wrong checksum":
            answer = await patch(running, path, at, data, **checksum(b"else" + data))
            assert answer.status_code == 460
        elif kind == "wrong offset":
            answer = await patch(running, path, at + size + 1, data)
            assert (answer.status_code, answer.headers["upload-offset"]) == (409, str(at))
        elif kind == "cut":
            async with sending(running, path, at, len(CONTENT) + 1 - at, data) as caller:
                caller.writer.write_eof()
                await ended(caller)
            at += len(data)
            await stored(running, path, at)
        assert (await head(running, path)).headers["upload-offset"] == str(at)
    folder = running.plugin(ModelUploads).uploads().folder
    assert folder.file(path.rpartition("/")[2]).read_bytes() == CONTENT[:at]


def test_offsets_are_those_of_the_bytes(tmp_path: Path) -> None:
    plugin = entry(PLUGIN, cache=str(tmp_path), keep_free_gb=0, max_open_per_key=10_000)
    config = Config(
        plugins=(plugin,), storage=StorageSettings(path=MEMORY), probes=NO_PROBES, workers=()
    )
    with Stage() as stage:
        running = stage.enter(live(config))

        @given(STEPS)
        def run(given_steps: list[tuple[str, int]]) -> None:
            stage.run(steps(running, given_steps))

        run()
