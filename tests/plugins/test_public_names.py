"""What plugins may rely on, and that those which come with the gateway rely on nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

from support.paths import DOCS, ROOT

import gateway

PLUGINS = sorted((ROOT / "plugins/gateway_plugins").rglob("*.py"))
CORE = sorted((ROOT / "gateway").rglob("*.py"))

NAMES = [
    "Answer",
    "Answered",
    "Api",
    "Attempt",
    "Backlog",
    "BadRequest",
    "Body",
    "BodyTooLarge",
    "Call",
    "CallError",
    "CallKind",
    "Caller",
    "CallerGone",
    "Cause",
    "Cell",
    "ChoiceDelta",
    "ChooseAgain",
    "Condition",
    "Config",
    "ConfigError",
    "ConstraintViolated",
    "Continuation",
    "Continued",
    "ControlRequest",
    "CorsPolicy",
    "Database",
    "Delivery",
    "Delta",
    "Divergence",
    "ENGINE_ERROR",
    "Ending",
    "Event",
    "Field",
    "Fields",
    "FileChanges",
    "Forbidden",
    "ForkKind",
    "Gaps",
    "Gateway",
    "GatewayError",
    "Gathered",
    "Habits",
    "Harness",
    "Headers",
    "Histogram",
    "Host",
    "KeptItem",
    "Kernel",
    "LINKED",
    "MAX_RETRY_AFTER",
    "Migration",
    "Migrations",
    "NOT_JSON",
    "NewWork",
    "NoWorker",
    "NotFound",
    "OpenDatabase",
    "Outcome",
    "Outlasting",
    "PLAIN_CHAT",
    "Panel",
    "PanelAction",
    "PanelRows",
    "Peers",
    "PluginEntry",
    "Principal",
    "Reason",
    "RefusedInjections",
    "Requested",
    "ResponseTranslator",
    "ResponsesRequest",
    "ResponsesTranslator",
    "Result",
    "Reward",
    "SCOPES",
    "Sample",
    "SessionInfo",
    "Settling",
    "SharedRow",
    "SharedTable",
    "Sink",
    "Splitter",
    "StateKey",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "Timings",
    "TooManyRequests",
    "Topic",
    "Trace",
    "TraceAttempt",
    "TraceChoice",
    "TraceContext",
    "TraceSpan",
    "Trajectories",
    "Trajectory",
    "Translation",
    "Unauthorized",
    "UnknownHabit",
    "Unreadable",
    "Untranslatable",
    "UpstreamError",
    "UpstreamTimeout",
    "Usage",
    "Value",
    "Variable",
    "Verdict",
    "WeightSpan",
    "WeightVersions",
    "WireResponse",
    "WorkItem",
    "WorkQueue",
    "Worker",
    "WorkerAnswer",
    "WorkerInfo",
    "WorkerSettings",
    "Workers",
    "api_of",
    "carry_response",
    "create_app",
    "error_message",
    "get_header",
    "hookimpl",
    "input_items",
    "insert_rows",
    "is_event_stream",
    "is_loopback",
    "is_preflight",
    "is_true",
    "json_mistake",
    "messages_as_chat",
    "messages_as_count",
    "open_for_changes",
    "open_read_only",
    "outlast",
    "output_items",
    "own_responses",
    "path_of",
    "read_items",
    "read_responses_request",
    "read_session_id",
    "responses_as_chat",
    "retry_after",
    "split_session_path",
    "tokens_of",
]


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import; the name is empty for a module as a whole."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_public_names_are_sorted_and_pinned() -> None:
    assert sorted(gateway.__all__) == NAMES == sorted(NAMES)
    assert all(hasattr(gateway, name) for name in NAMES)


def test_hook_reference_lists_every_public_name() -> None:
    listed = (DOCS / "hooks-reference.md").read_text().split("## Public names")[1]
    assert [name for name in NAMES if f"`{name}`" not in listed] == []


def test_plugins_touch_only_public_names_and_no_other_plugin() -> None:
    found = {file: list(imports(file)) for file in PLUGINS}
    strange = [
        (str(file), one) for file, many in found.items() for one in many if _is_strange(*one)
    ]
    assert strange == []
    others = [
        (str(file), one) for file, many in found.items() for one, _ in many if _is_other(file, one)
    ]
    assert others == []


def _is_strange(module: str, name: str) -> bool:
    """`Gateway` is none of a plugin's names: a plugin sees the gateway as its Host."""
    if module == "gateway":
        return name not in NAMES or name == "Gateway"
    return module.startswith("gateway.")


def _is_other(file: Path, module: str) -> bool:
    """Whether a module is another plugin than that of the file."""
    own = f"gateway_plugins.{file.relative_to(PLUGINS[0].parent).parts[0].removesuffix('.py')}"
    return module.startswith("gateway_plugins") and not f"{module}.".startswith(f"{own}.")


def test_core_imports_no_plugin() -> None:
    found = [
        str(file)
        for file in CORE
        if "gateway_plugins" in file.read_text()
        for module, _ in imports(file)
        if module.startswith("gateway_plugins")
    ]
    assert found == []
