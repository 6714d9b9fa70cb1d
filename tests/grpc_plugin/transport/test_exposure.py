"""What other machines may do: nothing in plaintext or without a key, unless it is said."""

import pytest
from gateway_plugins.grpc.options import Options, Tls
from gateway_plugins.grpc.serving import check_exposure
from support.grpc.over_http import OverHttp

from gateway import Call, ConfigError, Principal, hookimpl
from gateway.testing import GatewayFor

EVERYWHERE = "0.0.0.0"

INSECURE = Options(insecure=True)


class Knowing:
    @hookimpl
    def authenticate(self, call: Call) -> Principal:
        return Principal("a")


async def test_plaintext_stays_on_this_machine_unless_it_is_said(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp, Knowing)
    for address in ("127.0.0.1", "::1", "localhost"):
        check_exposure(live.gateway, Options(), address)
    for address in (EVERYWHERE, "::", "10.0.0.1", "gateway.example"):
        with pytest.raises(ConfigError, match="would serve plaintext; set `tls`"):
            check_exposure(live.gateway, Options(), address)
    check_exposure(live.gateway, INSECURE, EVERYWHERE)
    check_exposure(live.gateway, Options(tls=Tls(cert="a", key="b")), EVERYWHERE)


async def test_nobody_calls_from_elsewhere_without_a_key_unless_it_is_said(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(OverHttp)
    check_exposure(live.gateway, INSECURE, "127.0.0.1")
    with pytest.raises(ConfigError, match="without a key"):
        check_exposure(live.gateway, INSECURE, EVERYWHERE)
    live = await gateway_for(OverHttp, allow_anonymous=True)
    check_exposure(live.gateway, INSECURE, EVERYWHERE)
