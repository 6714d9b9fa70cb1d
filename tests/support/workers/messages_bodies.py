"""Requests of Messages that use what agents use, and what an engine refuses."""

import json
from typing import Any

U: dict[str, Any] = {"role": "user", "content": "Hello"}
T: dict[str, Any] = {
    "name": "f",
    "description": "d",
    "input_schema": {"properties": {"a": {"type": "string"}}},
}
DEFERRED: dict[str, Any] = {
    "name": "g",
    "input_schema": {"type": "object"},
    "strict": True,
    "defer_loading": True,
}

ASKED: list[dict[str, Any]] = [
    {"messages": [U], "system": "Be brief."},
    {
        "messages": [U],
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: a"},
            {"type": "text", "text": "One."},
            {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}},
        ],
    },
    {
        "messages": [
            U,
            {"role": "assistant", "content": "Hi"},
            {"role": "system", "content": "Now French."},
            U,
        ]
    },
    {
        "messages": [
            U,
            {
                "role": "system",
                "content": [{"type": "text", "text": "Now."}, {"type": "text", "text": " French."}],
            },
            U,
        ],
        "system": "S",
    },
    {"messages": [U], "tools": [T, DEFERRED]},
    {
        "messages": [U],
        "tools": [T, DEFERRED],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    },
    {"messages": [U], "tools": [T], "tool_choice": {"type": "none"}},
    {"messages": [U], "tools": [T], "tool_choice": {"type": "tool", "name": "f"}},
    {"messages": [U], "tools": [T], "tool_choice": {"type": "any"}},
    {"messages": [U], "tools": [T], "tool_choice": {"type": "tool", "name": "zz"}},
    {"messages": [U], "tools": []},
    {"messages": [U], "tools": [], "tool_choice": {"type": "auto"}},
    {"messages": [U], "tool_choice": {"type": "auto"}},
    {"messages": [U], "tool_choice": {"type": "none"}},
    {"messages": [U], "tool_choice": {"type": "any"}},
    {
        "messages": [
            U,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "zz"},
                    {"type": "text", "text": "Hi"},
                    {
                        "type": "tool_use",
                        "id": "t1",
                        "name": "f",
                        "input": {
                            "a": "é",
                            "n": 1.0,
                            "big": 123456789012345678901234567890,
                            "e": 1e30,
                            "x": [1, {"z": None}],
                        },
                    },
                    {"type": "tool_use", "name": "g", "id": "t2", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    },
                    {"type": "tool_result", "tool_use_id": "t2"},
                    {"type": "text", "text": "go"},
                ],
            },
        ],
        "tools": [T, DEFERRED],
    },
    {
        "messages": [
            U,
            {
                "role": "assistant",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "a"}],
                    }
                ],
            },
            U,
        ]
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            }
        ]
    },
    {"messages": [{"role": "user", "content": []}, U]},
    {"messages": [{"role": "assistant", "content": []}, U]},
    {"messages": [{"role": "user", "content": ""}]},
    {"messages": []},
    {"messages": [U], "thinking": {"type": "disabled"}},
    {"messages": [U], "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
    {"messages": [U], "thinking": {"type": "adaptive", "display": "summarized"}},
    {"messages": [U], "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1100},
    {"messages": [U], "thinking": {"type": "enabled", "budget_tokens": 10}},
    {
        "messages": [U],
        "output_config": {
            "format": {
                "type": "json_schema",
                "schema": {
                    "type": "object",
                    "properties": {"a": {"type": "integer"}},
                    "required": ["a"],
                },
            }
        },
    },
    {
        "messages": [U],
        "top_k": 3,
        "top_p": 0.5,
        "stop_sequences": ["e", " "],
        "metadata": {"user_id": "x"},
    },
    {"messages": [U], "stop_sequences": []},
    {"messages": [U], "max_tokens": 5000},
    {"messages": [U], "max_tokens": 0},
    {"messages": [U], "max_tokens": "5"},
    {"messages": [U], "max_tokens": 5.0},
    {"messages": [U], "max_tokens": True},
    {
        "messages": [U],
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "stream": None,
        "system": None,
        "tools": None,
        "tool_choice": None,
        "stop_sequences": None,
    },
    {"messages": [U], "temperature": 7},
    {"messages": [U], "top_k": -5},
    {"messages": [U], "stream": "true"},
    {"messages": [U], "metadata": "x"},
    {"messages": "hi"},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "g"}}
                ],
            }
        ],
        "tools": [DEFERRED],
    },
    {
        "messages": [
            U,
            {
                "role": "system",
                "content": [
                    {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "g"}},
                    {"type": "text", "text": "ok"},
                ],
            },
            U,
        ],
        "tools": [T, DEFERRED],
    },
    {
        "messages": [
            U,
            {
                "role": "system",
                "content": [
                    {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}}
                ],
            },
            U,
        ],
        "tools": [T, DEFERRED],
    },
    {
        "messages": [
            U,
            {
                "role": "system",
                "content": [
                    {
                        "type": "tool_addition",
                        "tool": {
                            "type": "tool_definition",
                            "definition": {"name": "h", "input_schema": {}},
                        },
                    }
                ],
            },
            U,
        ]
    },
    {
        "messages": [
            U,
            {
                "role": "system",
                "content": [
                    {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "nope"}}
                ],
            },
            U,
        ],
        "tools": [T, DEFERRED],
    },
    {"messages": [U], "chat_template_kwargs": {"enable_thinking": False}},
    {"messages": [U], "cache_salt": "abc"},
    {"messages": [U], "cache_salt": ""},
    {"messages": [U], "vllm_xargs": {"a": 1}},
    {
        "messages": [U],
        "container": None,
        "betas": ["x"],
        "context_management": {"edits": []},
        "service_tier": "auto",
        "mcp_servers": [],
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "q",
                        "content": [{"type": "tool_reference", "tool_name": "f"}],
                    },
                    {"type": "text", "text": "x"},
                ],
            }
        ],
        "tools": [T],
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "q",
                        "content": [{"type": "text", "text": 5}],
                    }
                ],
            }
        ]
    },
    {"messages": [U, U, U], "system": ""},
    {
        "messages": [U],
        "tools": [
            {
                "name": "f",
                "input_schema": {"type": "object"},
                "type": "custom",
                "cache_control": {"type": "ephemeral"},
                "eager_input_streaming": True,
            }
        ],
    },
    {
        "messages": [U],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}],
    },
    {"messages": [U], "tools": [{"name": "f", "input_schema": []}]},
    {"messages": [U], "kv_transfer_params": {}},
    {"messages": [U], "watermarking": False},
]

BODIES = [
    json.dumps({"model": "tiny", "max_tokens": 20, "temperature": 0, **asked}).encode()
    for asked in ASKED
]
