"""A gateway between callers of large language models and inference servers.

Plugins and embedders may use the names exported here; everything else may change.
"""

from gateway.app.gateway import Gateway, create_app
from gateway.calls.body import Body
from gateway.calls.call import Call
from gateway.calls.callers.outlasting import Outlasting, outlast
from gateway.calls.control_request import ControlRequest
from gateway.calls.records import (
    Answer,
    Answered,
    Attempt,
    Continuation,
    Continued,
    Outcome,
    Principal,
)
from gateway.calls.reply import Caller
from gateway.calls.state import LINKED, StateKey
from gateway.cluster.peers import Peers, Topic
from gateway.cluster.shared_table import SharedRow, SharedTable
from gateway.config import Config
from gateway.config import Worker as WorkerSettings
from gateway.config.misfit import json_mistake
from gateway.config.model import PluginEntry, is_loopback
from gateway.config.node import Variable
from gateway.errors import (
    MAX_RETRY_AFTER,
    NOT_JSON,
    BadRequest,
    BodyTooLarge,
    CallerGone,
    CallError,
    ChooseAgain,
    ConfigError,
    Forbidden,
    GatewayError,
    NotFound,
    NoWorker,
    TooManyRequests,
    Unauthorized,
    UpstreamError,
    UpstreamTimeout,
    retry_after,
)
from gateway.fleet.injection_support import RefusedInjections
from gateway.fleet.registry import Workers
from gateway.fleet.request import WorkerAnswer
from gateway.fleet.worker import Condition, Worker, WorkerInfo
from gateway.frontends.cors import CorsPolicy, is_preflight
from gateway.headers import Headers, get_header, is_event_stream, path_of
from gateway.kernel import Kernel
from gateway.kernel.interface import Field, Fields
from gateway.pipeline.authorization import SCOPES
from gateway.plugins.hookspecs import hookimpl
from gateway.plugins.host import Host
from gateway.plugins.panel import Cell, Panel, PanelAction, PanelRows
from gateway.plugins.work_queue import Backlog, NewWork, WorkItem, WorkQueue
from gateway.storage import (
    ConstraintViolated,
    Database,
    FileChanges,
    Migration,
    Migrations,
    OpenDatabase,
    Sink,
    Storage,
    StorageError,
    StorageUnavailable,
    Value,
    insert_rows,
    open_for_changes,
    open_read_only,
)
from gateway.telemetry.collectors import Gaps, Gathered
from gateway.telemetry.metrics import Histogram, Sample
from gateway.telemetry.trace_context import TraceContext
from gateway.trace import (
    CallKind,
    Cause,
    Delivery,
    Divergence,
    ForkKind,
    Harness,
    Reason,
    Result,
    Reward,
    SessionInfo,
    Timings,
    Trace,
    TraceAttempt,
    TraceChoice,
    TraceSpan,
    Trajectories,
    Trajectory,
    Verdict,
    WeightSpan,
    WeightVersions,
    WireResponse,
)
from gateway.wire.apis.registry import api_of
from gateway.wire.dialect import Api, ChoiceDelta, Delta, Requested
from gateway.wire.error_body import error_message
from gateway.wire.naming.session_path import read_session_id
from gateway.wire.naming.session_path import split_path as split_session_path
from gateway.wire.reported.ending import ENGINE_ERROR, Ending
from gateway.wire.reported.usage import Usage, tokens_of
from gateway.wire.request import is_true
from gateway.wire.sse import Event, Splitter
from gateway.wire.translation.messages.request import PLAIN_CHAT, Habits, UnknownHabit
from gateway.wire.translation.messages.translator import messages_as_chat, messages_as_count
from gateway.wire.translation.responses.kept_items import (
    KeptItem,
    input_items,
    output_items,
    read_items,
)
from gateway.wire.translation.responses.own import own_responses
from gateway.wire.translation.responses.request.request import read as read_responses_request
from gateway.wire.translation.responses.structs import Request as ResponsesRequest
from gateway.wire.translation.responses.translator import (
    ResponsesTranslator,
    responses_as_chat,
)
from gateway.wire.translation.responses.translator import carry as carry_response
from gateway.wire.translation.translation import (
    ResponseTranslator,
    Settling,
    Translation,
    Unreadable,
    Untranslatable,
)

__version__ = "0.1.0"

__all__ = [
    "ENGINE_ERROR",
    "LINKED",
    "MAX_RETRY_AFTER",
    "NOT_JSON",
    "PLAIN_CHAT",
    "SCOPES",
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
    "Migration",
    "Migrations",
    "NewWork",
    "NoWorker",
    "NotFound",
    "OpenDatabase",
    "Outcome",
    "Outlasting",
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
