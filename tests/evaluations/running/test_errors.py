"""The `http_errors` of the details."""

from gateway_plugins.evaluations.running.scoring import Absent, Errors


def test_errors_stay_small_whatever_engines_call_theirs() -> None:
    errors = Errors()
    for number in range(1_000):
        errors.add(number, Absent("bad", 400 + number % 3, f"type-{number}" * 50))
    assert errors.total_errors == 1_000 == sum(errors.by_type.values())
    assert (len(errors.by_code), len(errors.by_type), len(errors.examples)) == (3, 51, 5)
    assert errors.by_type["other"] == 950
    assert max(map(len, errors.by_type)) == 100


def test_request_without_a_status_or_code_is_counted_too() -> None:
    errors = Errors()
    errors.add(7, Absent("missing"))
    assert (errors.by_code, errors.by_type) == ({"none": 1}, {"none": 1})
    assert errors.examples[0].index == 7
