"""A worker's address never reaches a caller in a `location` header."""

import pytest
from support.callers.raw_client import RawClient

from gateway.config import Config, Worker
from gateway.testing import NO_PROBES, ScriptedConnection, ScriptedWorker, live


@pytest.mark.parametrize("status", [200, 201, 307, 404])
async def test_location_of_a_response_leads_through_the_gateway(status: int) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(
            b"HTTP/1.1 %d Odd\r\nlocation: %b/v1/models\r\ncontent-location: http://w1/x\r\n"
            b"content-length: 0\r\n\r\n" % (status, worker.url.encode())
        )

    async with ScriptedWorker(script) as worker:
        config = Config(probes=NO_PROBES, workers=(Worker(url=worker.url),))
        async with live(config) as gateway, RawClient(*gateway.server.address) as client:
            answer = await client.ask("GET", "/v1/models/")
    assert answer.status == status
    assert answer.values(b"location") == ([] if status == 200 else [b"../models"])
    assert not answer.values(b"content-location")
