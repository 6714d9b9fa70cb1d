"""Opens the file of the queue for the command line, and reads the options of its gateway."""

import argparse
import contextlib
from collections.abc import Iterator

from gateway import (
    Config,
    ConfigError,
    Database,
    FileChanges,
    StorageError,
    StorageUnavailable,
    open_for_changes,
    open_read_only,
)
from gateway_plugins.batch.options import Options

NAMES = ("batch", "gateway_plugins.batch", "gateway_plugins.batch:Batch")
"""Names that a configuration may use for the plugin."""


def settings_of(arguments: argparse.Namespace) -> Config:
    """Return the configuration with the database that the arguments name."""
    settings: Config = arguments.settings.with_database(arguments.storage_path)
    return settings


def options_of(settings: Config) -> Options:
    """Return the plugin's options. Raises ConfigError if they are invalid."""
    for plugin in settings.plugins:
        if plugin.name in NAMES:
            problems: list[str] = []
            options = plugin.options_as(Options, problems)
            if options is None:
                raise ConfigError(*problems)
            return options
    return Options()


@contextlib.contextmanager
def to_read(settings: Config) -> Iterator[Database]:
    """Yield a snapshot of the file. Raises ConfigError if it has no queue or cannot be read."""
    with open_read_only(settings, "GET /v1/batch") as db:
        _check(db, settings)
        yield db


@contextlib.contextmanager
def to_change(settings: Config, instead: str) -> Iterator[FileChanges]:
    """Yield the file for changes. Raises ConfigError if it has no queue or cannot be changed.

    `instead` is the request that does the same.
    """
    with open_for_changes(settings, instead) as file:
        file.write(lambda db: _check(db, settings))
        yield file


def _check(db: Database, settings: Config) -> None:
    try:
        list(db.select("SELECT 1 FROM batch_items LIMIT 0"))
    except StorageUnavailable:
        raise
    except StorageError:
        path = settings.storage.path
        raise ConfigError(f"{path}: has no queue: no gateway with the plugin used it") from None
