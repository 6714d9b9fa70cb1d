"""Whose batches they are: each key its own, `admin` all; and whose the files of results are."""

from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI
from support.batch.batches import answers, created, ids, lines, over
from support.batch.files import client_of
from support.gateways.with_keys import KeysOnDisk, key, keyed

from gateway.testing import GatewayFor, Live

KEYS = {"ann": "batch", "bob": "batch", "eve": "upload", "root": "admin+batch"}


async def started(gateway_for: GatewayFor, folder: Path) -> Live:
    disk = KeysOnDisk(folder / "keys.json")
    disk.write(*(key(f"gw-{name}", name, scopes=some.split("+")) for name, some in KEYS.items()))
    return await keyed(gateway_for, disk, "batch")


def as_(name: str, live: Live) -> AsyncOpenAI:
    return client_of(live, f"gw-{name}")


async def test_batch_of_another_key_is_404(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, tmp_path)
    async with as_("ann", live) as ann, as_("bob", live) as bob:
        made = await created(ann, *lines(1))
        for ask in (bob.batches.retrieve, bob.batches.cancel):
            with pytest.raises(openai.NotFoundError) as refused:
                await ask(made.id)
            with pytest.raises(openai.NotFoundError) as unknown:
                await ask("batch_unknown")
            assert str(refused.value) == str(unknown.value)
        with pytest.raises(openai.NotFoundError):
            await bob.batches.list(after=made.id)
        assert [one.id async for one in bob.batches.list()] == []
        assert [one.id async for one in ann.batches.list()] == [made.id]
        assert (await over(ann, made)).status == "completed"


async def test_file_of_another_key_makes_no_batch(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, tmp_path)
    async with as_("ann", live) as ann, as_("bob", live) as bob:
        file = await ann.files.create(file=b"".join(lines(1)), purpose="batch")
        with pytest.raises(openai.NotFoundError):
            await bob.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )


async def test_fault_4_4_files_of_results_are_the_owners_also_if_an_admin_cancels(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await started(gateway_for, tmp_path)
    live.gateway.workers.all[0].mark("test", "down", "nothing is to run")
    async with as_("ann", live) as ann, as_("bob", live) as bob, as_("root", live) as root:
        made = await created(ann, *lines(2))
        assert [one.id async for one in root.batches.list()] == [made.id]
        await root.batches.cancel(made.id)
        batch = await over(ann, made)
        assert ids(await answers(ann, batch.error_file_id)) == ["id 0", "id 1"]
        assert batch.error_file_id in [one.id async for one in ann.files.list()]
        with pytest.raises(openai.NotFoundError):
            await answers(bob, batch.error_file_id)


async def test_batches_need_the_scope_batch(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, tmp_path)
    async with as_("eve", live) as eve:
        for ask in (eve.batches.list(), eve.batches.retrieve("x"), eve.batches.cancel("x")):
            with pytest.raises(openai.PermissionDeniedError, match="batch"):
                await ask
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/x"), ("POST", "/x/cancel")):
        answer = await live.client.request(method, f"/v1/batches{path}")
        assert answer.status_code == 401


async def test_lines_run_for_the_owner_of_the_batch(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """A key that is bound to other models gets the refusals that its live calls get."""
    disk = KeysOnDisk(tmp_path / "keys.json")
    disk.write(key("gw-ann", "ann", scopes=["batch"], models=["other"]))
    live = await keyed(gateway_for, disk, "batch")
    async with as_("ann", live) as ann:
        batch = await over(ann, await created(ann, *lines(1)))
        [refused] = await answers(ann, batch.error_file_id)
    assert refused["response"]["status_code"] == 403
    assert refused["response"]["body"]["error"]["code"] == "model_not_allowed"
