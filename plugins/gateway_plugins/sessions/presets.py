"""What harnesses say of themselves, as data: the presets, and those of an operator.

Read off recorded calls of the versions that docs/agents.md names.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from gateway import CallKind


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one harness is known, and the places of what it says, see places.py.

    `when` maps places to patterns of the shell: one that matches suffices. Its places are headers,
    so that no body is read for a caller that no preset knows. Of the other lists, the first place
    that has a value counts. `call_kind` maps places to what their values mean.
    """

    when: Mapping[str, str]
    session: tuple[str, ...] = ()
    parent_session: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    parent_agent: tuple[str, ...] = ()
    call_kind: Mapping[str, Mapping[str, CallKind]] = {}


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "claude-code": Preset(
            when={"header:user-agent": "claude-cli/*"},
            session=("header:x-claude-code-session-id", "body:metadata.user_id.session_id"),
            agent=("header:x-claude-code-agent-id",),
            parent_agent=("header:x-claude-code-parent-agent-id",),
            call_kind={"header:anthropic-beta": {"*fallback-credit-*": "compaction"}},
        ),
        "codex": Preset(
            when={"header:user-agent": "codex*", "header:x-codex-turn-metadata": "*"},
            session=("header:session-id", "body:prompt_cache_key"),
            agent=("header:thread-id",),
            parent_agent=("header:x-codex-parent-thread-id",),
            call_kind={
                "header:x-codex-turn-metadata.request_kind": {
                    "turn": "turn",
                    "compaction": "compaction",
                }
            },
        ),
        "opencode": Preset(
            when={"header:user-agent": "opencode/*"},
            session=("header:x-session-id", "header:x-session-affinity", "body:prompt_cache_key"),
            parent_session=("header:x-parent-session-id",),
        ),
        "kimi-code": Preset(
            when={"header:user-agent": "kimi-code-cli/*"},
            session=("body:prompt_cache_key", "body:metadata.user_id"),
        ),
        "openhands": Preset(
            when={"header:x-title": "OpenHands"},
            session=("header:x-litellm-session-id", "body:prompt_cache_key"),
        ),
        "copilot": Preset(
            when={"header:x-initiator": "*", "header:x-interaction-type": "*"},
            session=("body:prompt_cache_key",),
            call_kind={
                "header:x-interaction-type": {
                    "conversation-user": "turn",
                    "conversation-subagent": "subagent",
                    "conversation-compaction": "compaction",
                }
            },
        ),
        "pi": Preset(when={"header:session_id": "*"}, session=("header:session_id",)),
        "qwen-code": Preset(when={"header:user-agent": "QwenCode/*"}),
    }
)
"""The presets by name, in the order in which they are tried."""
