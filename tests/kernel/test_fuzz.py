"""A short fuzz of each part of the kernel, and the fuzz itself; `make fuzz` is the long one."""

from collections.abc import Sequence
from random import Random

import pytest
from fuzz.conduct import run, run_only
from fuzz.target import Differs
from fuzz.targets import TARGETS

from gateway import kernel
from gateway.kernel import reference
from gateway.kernel.interface import Functions

INPUTS = 2_000
SEED = 15


@pytest.mark.parametrize("name", TARGETS)
def test_native_kernel_agrees_with_python_about_damaged_inputs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel.is_built():
        pytest.skip("the native kernel has not been built")
    monkeypatch.setenv(kernel.VARIABLE, "native")
    report = run(TARGETS[name](), kernel.active().functions, INPUTS, SEED)
    assert report.taken > INPUTS / 20, "a fuzz of what is left to Python shows little"


class Wrong:
    """A target whose kernel takes inputs without a brace, and errs on those with two colons."""

    name = "wrong"

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def seeds(self) -> Sequence[bytes]:
        return (b'{"a": 1}', b"data: [1, 2]\n\n")

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        self.seen.append(given)
        if given.count(b":") > 1:
            raise Differs("two colons")
        return b"{" not in given


def test_fuzz_names_the_input_that_differs() -> None:
    with pytest.raises(Differs, match="two colons") as found:
        run(Wrong(), reference, 1_000, SEED)
    command = str(found.value).splitlines()[-1]
    assert command.startswith(f"python -m fuzz --target wrong --seed {SEED} --only ")
    with pytest.raises(Differs, match="two colons"):
        run_only(Wrong(), reference, int(command.split()[-1]), SEED)


def test_fuzz_repeats_its_inputs_for_a_seed() -> None:
    runs = []
    for seed in (SEED, SEED, SEED + 1):
        target = Wrong()
        with pytest.raises(Differs):
            run(target, reference, 1_000, seed)
        runs.append(target.seen)
    assert runs[0] == runs[1] != runs[2]
