"""The matrix of scores: a column for each evaluation, with the scores that say most."""

from collections.abc import Mapping, Sequence

import msgspec

from gateway import Cell

PREFERRED = (
    *("accuracy", "acc", "strict_accuracy", "macro_f1", "f1", "exact_match", "em", "avg"),
    *("wavg_inc", "score", "bleu", "rougeL", "pearson", "spearman"),
)
"""Scores in the order in which they are chosen; any others follow by name."""

SPLIT: Mapping[str, str] = {"euroeval": "_", "lm-harness": ":", "lm_harness": ":"}
"""Evaluations of several data sets, and what stands between a data set and a score in the names of
their scores: each data set has a column."""

_LONGEST_FIRST = sorted(PREFERRED, key=len, reverse=True)

MAX_METRICS = 2
"""Scores of a column."""


class Column(msgspec.Struct):
    """An evaluation, or one data set of it; `metrics` are the scores that it shows."""

    key: str
    label: str
    metrics: list[str]


class Row(msgspec.Struct):
    """A model; `data` has its newest scores by column."""

    model: str
    data: dict[str, dict[str, float | None]]


class Matrix(msgspec.Struct):
    """`updated_at` is when the newest of the scores was made, in Unix seconds, None: there is
    none."""

    columns: list[Column]
    rows: list[Row]
    updated_at: float | None


def matrix(scores: Sequence[Mapping[str, Cell]]) -> Matrix:
    """Return the matrix of scores: rows with `model`, `evaluation`, `metric`, `value`, `ended_at`.

    The scores are the newest of each model and evaluation.
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    named: dict[str, set[str]] = {}
    newest: float | None = None
    for row in scores:
        column, metric = _place(str(row["evaluation"]), str(row["metric"]))
        value, ended = row["value"], row["ended_at"]
        number = float(value) if isinstance(value, int | float) else None
        found.setdefault(str(row["model"]), {}).setdefault(column, {})[metric] = number
        named.setdefault(column, set()).add(metric)
        if isinstance(ended, int | float):
            newest = max(newest or ended, ended)
    columns = [Column(key, key, chosen(named[key])) for key in sorted(named)]
    shown = {column.key: column.metrics for column in columns}
    rows = [Row(model, _shown(found[model], shown)) for model in sorted(found)]
    return Matrix(columns, rows, newest)


def chosen(metrics: set[str]) -> list[str]:
    """Return the scores of a column that are shown, the one that says most first."""
    ranks = {name: rank for rank, name in enumerate(PREFERRED)}
    ordered = sorted(metrics, key=lambda name: (ranks.get(name, len(ranks)), name))
    return ordered[:MAX_METRICS]


def _place(evaluation: str, metric: str) -> tuple[str, str]:
    """Return the column of a score, and its name in the column."""
    between = SPLIT.get(evaluation)
    if between is None:
        return evaluation, metric
    name = evaluation.replace("_", "-")
    for score in _LONGEST_FIRST:  # `macro_f1` holds what stands between, and ends in `f1`
        if metric.endswith(between + score):
            return f"{name}:{metric[: -len(between + score)]}", score
    dataset, found, score = metric.rpartition(between)
    return (f"{name}:{dataset}", score) if found else (name, metric)


def _shown(
    data: Mapping[str, Mapping[str, float | None]], metrics: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float | None]]:
    return {
        column: {name: cells[name] for name in metrics[column] if name in cells}
        for column, cells in data.items()
    }
