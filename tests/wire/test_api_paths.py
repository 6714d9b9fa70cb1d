"""The paths of APIs stand in gateway/wire/apis alone; everyone else asks the API."""

import ast
from collections.abc import Iterator
from pathlib import Path

from support.paths import ROOT

from gateway.wire.apis.registry import APIS

PATHS = {path for api in APIS for path in (*api.paths, api.below) if path}

ELSEWHERE = {
    "gateway/config/model.py": "the default of `extra_paths`: config stands below wire",
    "gateway/config/probe.py": "the probe of SGLang: config stands below wire",
    "gateway/fleet/probes.py": "requests the models of a worker",
    "gateway/testing/calls.py": "the path of a call in a test of a plugin",
    "plugins/gateway_plugins/batch/batches/creating.py": "the paths that lines may not have",
    "plugins/gateway_plugins/batch/cli/requests.py": "what a bare request of a file is for",
    "plugins/gateway_plugins/batch/doors/batches.py": "responds at /v1/batches itself",
    "plugins/gateway_plugins/batch/doors/completions.py": "makes calls of what its doors get",
    "plugins/gateway_plugins/batch/doors/files/routes.py": "responds at /v1/files itself",
    "plugins/gateway_plugins/batch/doors/jobs.py": "makes a call of a text",
    "plugins/gateway_plugins/batch/doors/uploads/routes.py": "responds at /v1/uploads itself",
    "plugins/gateway_plugins/batch/report.py": "the words for paths in the metrics it takes over",
    "plugins/gateway_plugins/evaluations/running/collecting.py": "chooses a path for a request",
    "plugins/gateway_plugins/grpc/edge/request.py": "the path of a call that cannot be read",
    "plugins/gateway_plugins/grpc/services/control/models.py": "asks for the models as a call",
    "plugins/gateway_plugins/grpc/services/generate/request.py": "makes calls of its requests",
    "plugins/gateway_plugins/grpc/services/llm/request.py": "makes chats of its requests",
    "plugins/gateway_plugins/openai_models.py": "responds at /v1/models itself",
    "plugins/gateway_plugins/request_migration/requests.py": "asks other workers to carry on",
    "plugins/gateway_plugins/stored_responses/__init__.py": "responds at /v1/responses itself",
    "gateway/wire/translation/responses/own.py": "writes where a request came by",
    "plugins/gateway_plugins/trace_capture/cli/doctor/asking.py": "asks what tokens are called",
    "plugins/gateway_plugins/trace_capture/cli/doctor/fleets.py": "asks for the models",
    "plugins/gateway_plugins/trace_capture/cli/doctor/kinds.py": "requests of each kind",
    "plugins/gateway_plugins/trace_capture/tito/engine.py": "asks engines to render and derender",
    "plugins/gateway_plugins/trace_capture/tito/requests.py": "makes generations of chats",
    "plugins/gateway_plugins/translate/checking.py": "asks engines to render requests",
    "plugins/gateway_plugins/translate/habits.py": "asks engines what they make of requests",
    "plugins/gateway_plugins/runtime/importing/variables.py": "a variable of the replaced system",
    "plugins/gateway_plugins/runtime/loading/readiness.py": "asks an engine that is no worker yet",
}
"""Files that may name a path, and why."""

FOLDERS = ("gateway/wire/apis/", "gateway/simulator/", "gateway/client/")


def files() -> Iterator[Path]:
    for folder in ("gateway", "plugins/gateway_plugins"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def literals(tree: ast.Module) -> Iterator[str]:
    """The strings in a module, its docstrings left out."""
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.value


def test_api_paths_stand_only_in_wire() -> None:
    found = set()
    for file in files():
        name, text = str(file.relative_to(ROOT)), file.read_text()
        if name.startswith(FOLDERS) or not any(path in text for path in PATHS):
            continue
        if PATHS & set(literals(ast.parse(text))):
            found.add(name)
    assert found == set(ELSEWHERE)
