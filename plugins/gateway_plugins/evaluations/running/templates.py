"""What the chat template of a model says: whether the model follows instructions, and reasons."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

SIGNS = ("<think", "<reason", "<reasoning", "<analysis", "<chain_of_thought")
"""What is in the templates of models that reason before they answer."""

MAX_BYTES = 32 * 1024 * 1024
"""Size of a file that is read; some tokenizers have their whole vocabulary in it."""


class Template(msgspec.Struct, frozen=True):
    """`is_base`: the model has no template; None: its files are not there. `reasons`: it does."""

    is_base: bool | None
    reasons: bool


def template_of(model: str, cache: str | None) -> Template:
    """Look at the snapshots of a model in the cache of the hub, or at the folder that it names."""
    found = list(_folders(model, cache))
    texts = [text for folder in found for text in _texts(folder) if text.strip()]
    is_base = None if not any(map(_has_files, found)) else not texts
    return Template(is_base, any(sign in text for text in texts for sign in SIGNS))


def _folders(model: str, cache: str | None) -> Iterator[Path]:
    place = _cache() if cache is None else Path(cache)
    for root in (place, place / "hub"):
        yield from (root / f"models--{model.replace('/', '--')}" / "snapshots").glob("*")


def _cache() -> Path:
    environ = os.environ
    if "HF_HUB_CACHE" in environ:
        return Path(environ["HF_HUB_CACHE"])
    if "HF_HOME" in environ:
        return Path(environ["HF_HOME"]) / "hub"
    home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "huggingface" / "hub"


def _has_files(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").exists() or (folder / "config.json").exists()


def _texts(folder: Path) -> Iterator[str]:
    yield _read(folder / "chat_template.jinja")
    try:
        config = json.loads(_read(folder / "tokenizer_config.json") or "{}")
    except (ValueError, RecursionError):
        return
    template = config.get("chat_template") if isinstance(config, dict) else None
    for one in template if isinstance(template, list) else [template]:
        text = one.get("template") if isinstance(one, dict) else one
        if isinstance(text, str):
            yield text


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
