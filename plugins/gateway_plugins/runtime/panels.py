"""What people see of the runtimes: their state, what models wait for, decisions, and the log."""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from gateway import Cell, Panel, PanelRows
from gateway_plugins.runtime.fleet import Fleet
from gateway_plugins.runtime.owning.owner import Owner


class RuntimePanels:
    """The panels, over the runtimes that `fleet` returns."""

    def __init__(self, fleet: Callable[[], Fleet]) -> None:
        self._fleet = fleet

    def all(self) -> Sequence[Panel]:
        """Return the panels."""
        return [
            Panel(name="runtime", title="Runtimes", scope="monitor", read=self._runtimes),
            Panel(name="models", title="Models", scope="monitor", read=self._models),
            Panel(name="decisions", title="Decisions", scope="monitor", read=self._decisions),
            Panel(name="log", title="Log of the engines", scope="logs", read=self._log),
        ]

    async def _runtimes(self, limit: int) -> PanelRows:
        fleet = self._fleet()
        now = monotonic()
        rate = sum(one.rate(now) for one in fleet.activity.arrivals.values())
        return PanelRows([_row(one, rate) for one in fleet.owners[:limit]], len(fleet.owners))

    async def _models(self, limit: int) -> PanelRows:
        fleet = self._fleet()
        demands = fleet.demands()
        rows = [
            {
                "model": name,
                "held_calls": one.held,
                "queued_items": one.queued,
                "running_items": one.running,
                "load_time_s": one.load_time,
                "failures": fleet.memory.of(name).failures,
                "why": fleet.memory.of(name).text,
                "new_try_s": fleet.memory.seconds_barred(name) or None,
            }
            for name, one in list(demands.items())[:limit]
        ]
        return PanelRows(rows, len(demands))

    async def _decisions(self, limit: int) -> PanelRows:
        found = [
            (event, owner.runtime.name)
            for owner in self._fleet().owners
            for event in owner.decisions.latest()
        ]
        found.sort(key=lambda one: one[0].at, reverse=True)
        rows: list[Mapping[str, Cell]] = [
            {"runtime": name, "decided_at": event.at, "state": event.state, "why": event.reason}
            for event, name in found[:limit]
        ]
        return PanelRows(rows, len(found))

    async def _log(self, limit: int) -> PanelRows:
        logs = self._fleet().logs()
        lines = [(at, name, line) for name, log in logs.items() for at, line in log.recent(limit)]
        lines.sort(key=lambda one: one[0])
        rows: list[Mapping[str, Cell]] = [
            {"runtime": name, "written_at": at, "line": line} for at, name, line in lines[-limit:]
        ]
        return PanelRows(rows)


def _row(owner: Owner, rate: float) -> dict[str, str | float | None]:
    state = owner.state
    return {
        "runtime": owner.runtime.name,
        "phase": state.phase,
        "model": state.model,
        "next": state.next,
        "for_s": monotonic() - state.since,
        "tokens": owner.policy.tokens(monotonic()),
        "calls_per_second": rate,
        "generation": state.generation,
        "why": state.reason,
    }
