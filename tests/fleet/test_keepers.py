"""Several processes share what they know of the keepers of objects."""

from pathlib import Path

from gateway.cluster.peers import Peers
from gateway.fleet.keepers import Keepers, Kept


async def test_keepers_ask_the_other_processes_and_remember_what_they_say(tmp_path: Path) -> None:
    knows, asks = Keepers(), Keepers()
    async with Peers(0, 2, tmp_path) as one, Peers(1, 2, tmp_path) as other:
        knows.join(one)
        asks.join(other)
        knows.put("/v1/files/1", Kept("a", "alice"))
        assert await asks.find("/v1/files/1", ()) == Kept("a", "alice")
        assert await asks.find("/v1/files/2", ()) is None
    assert await asks.find("/v1/files/1", ()) == Kept("a", "alice")
