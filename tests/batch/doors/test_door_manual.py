"""The tables of docs/batch.md name every member of the objects that the doors return."""

from gateway_plugins.batch.doors.jobs import Job
from gateway_plugins.batch.doors.objects import Completion, ItemStatus, Progress
from support.manual import Manual
from support.paths import DOCS

MANUAL = Manual(DOCS / "batch.md")


def test_manual_names_every_member_of_an_item() -> None:
    part = MANUAL.text.split("### The object of an item")[1].partition("\n## ")[0]
    jobs = set(Job.__struct_fields__) - set(Progress.__struct_fields__)
    members = {*ItemStatus.__struct_fields__, *Completion.__struct_fields__, *jobs}
    assert {name for name in members if f"`{name}`" not in part} == set()
