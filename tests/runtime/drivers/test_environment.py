"""What engines get of the gateway's environment."""

import json
from pathlib import Path

from gateway_plugins.runtime.drivers.machine.environment import scrubbed
from gateway_plugins.runtime.drivers.process import ProcessDriver
from hypothesis import given
from hypothesis import strategies as st
from support.runtime.small_engines import Printed, launch

SHOW = "import json; say('environ', json.dumps(dict(os.environ)))"

GATEWAYS = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/me",
    "LC_ALL": "C",
    "CUDA_HOME": "/cuda",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "HF_HOME": "/models",
    "VLLM_USE_V1": "1",
    "https_proxy": "http://proxy:3128",
    "HF_TOKEN": "hf_abc",
    "VLLM_API_KEY": "sk-1",
    "GATEWAY_CONFIG": "gateway.yaml",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "DATABASE_URL": "postgres://me:pw@host/db",
    "PYTHONPATH": "/gateway",
}

NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1)


async def shown(driver: ProcessDriver, **about: tuple[str, ...] | dict[str, str]) -> dict[str, str]:
    printed = Printed()
    environment, devices = about.get("environment", {}), about.get("devices", ())
    assert isinstance(environment, dict)
    assert isinstance(devices, tuple)
    began = launch(SHOW, environment=environment, devices=devices)
    engine = await driver.start(began, printed)
    await engine.ended()
    found: dict[str, str] = json.loads(await printed.line("environ"))
    return found


async def test_engines_get_a_short_list_of_the_environment(tmp_path: Path) -> None:
    driver = ProcessDriver(str(tmp_path), GATEWAYS)
    found = await shown(driver)
    assert found.keys() - {"LC_CTYPE"} == {
        *("PATH", "HOME", "LC_ALL", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "HF_HOME"),
        *("VLLM_USE_V1", "https_proxy", "GATEWAY_RUNTIME", "SPT_NOENV"),
    }
    assert found["CUDA_VISIBLE_DEVICES"] == "0,1"


async def test_fault_6_02_what_a_start_adds_reaches_the_engine(tmp_path: Path) -> None:
    driver = ProcessDriver(str(tmp_path), GATEWAYS)
    given = {"HF_TOKEN": "hf_abc", "MY_OWN": "1", "GATEWAY_RUNTIME": "no"}
    found = await shown(driver, environment=given, devices=("GPU-12", "GPU-34"))
    assert found["HF_TOKEN"] == "hf_abc"
    assert found["MY_OWN"] == "1"
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-12,GPU-34"
    assert found["GATEWAY_RUNTIME"].endswith("/gpu/1/")
    assert str(tmp_path) not in found["GATEWAY_RUNTIME"]


@given(st.dictionaries(NAMES | st.just("HF_") | st.just("VLLM_"), st.just("v")), NAMES)
def test_no_name_that_ends_like_a_secret_passes(environ: dict[str, str], more: str) -> None:
    for ending in ("TOKEN", "_KEY", "SECRET", "PASSWORD", "_CREDENTIALS", "_token"):
        names = {f"{begin}{more}{ending}" for begin in ("HF_", "VLLM_", "CUDA_", "")}
        assert scrubbed({**environ, **dict.fromkeys(names, "v")}).keys().isdisjoint(names)
