"""The paths of TRL's servers, old generation (up to 1.10) and new, and the use of each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

Kind = Literal["join", "leave", "begin", "load", "end", "pause", "resume", "cache", "version"]


class Step(msgspec.Struct, frozen=True):
    """The effect of a broadcast on a worker.

    `join` and `leave` the group that the weights travel in; `begin`, `load` and `end` an update;
    `pause` and `resume` the engine; drop its `cache`; name its `version`. `quiet`: the engine must
    generate nothing from here on until the update's `end`.
    """

    kind: Kind
    quiet: bool = False


GENERATIONS = frozenset({"/generate/", "/chat/", "/get_sequence_logprobs/"})
"""Old paths whose body is a JSON object."""

CARRIED = (
    "/health/",
    "/get_world_size/",
    "/get_world_size",
    "/server_info",
    *sorted(GENERATIONS),
)

BROADCASTS: Mapping[str, Step] = MappingProxyType(
    {
        "/init_communicator/": Step("join"),
        "/update_named_param/": Step("load"),
        "/batch_update_named_params/": Step("load"),
        "/reset_prefix_cache/": Step("end"),
        "/close_communicator/": Step("leave"),
        "/init_weight_transfer_engine": Step("join"),
        "/start_weight_update": Step("begin", quiet=True),
        "/update_weights": Step("load"),
        "/finish_weight_update": Step("end"),
        "/pause": Step("pause"),
        "/resume": Step("resume"),
        "/reset_prefix_cache": Step("cache"),
        "/update_weight_version": Step("version"),
    }
)

SLASHLESS: Mapping[str, str] = MappingProxyType(
    {
        path.removesuffix("/"): path
        for path in (*CARRIED, *BROADCASTS)
        if path.endswith("/") and path != "/health/"
        if path.removesuffix("/") not in (*CARRIED, *BROADCASTS)
    }
)
"""Old paths without their last slash, unless another path has that name."""
