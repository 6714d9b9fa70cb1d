"""A stand-in engine with the wire behaviour of vLLM 0.32.

The demo and the tests run against it, and plugin authors can too. It is a real server on a real
socket with a small language model of its own, real stops, logprobs and tool calls, and faults on
request.
"""

from gateway.simulator.app import SimulatorApp, create_simulator
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.faults import Fault, Faults
from gateway.simulator.life import Life
from gateway.simulator.monitor import Stats
from gateway.simulator.server import Simulator, serve

__all__ = [
    "Fault",
    "Faults",
    "Life",
    "Simulator",
    "SimulatorApp",
    "SimulatorConfig",
    "Stats",
    "create_simulator",
    "serve",
]
