"""A pytest plugin: fixtures that run tests with the native kernel and again with Python's.

`pytestmark = pytest.mark.usefixtures("kernel_of_module")` in a module: all of it runs with one,
then with the other. A fixture of the module's own scope that assembles gateways must ask for
`kernel_of_module`, else it keeps the first. `kernel_of_test` does the same for one test or class.
The kernel is in the environment before the test's own fixtures are set up, so that what they
assemble has it, and processes that they start.
"""

from collections.abc import Iterator

import pytest

from gateway import kernel

NAMES = ("native", "python")


@pytest.fixture(scope="module", params=NAMES)
def kernel_of_module(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the kernel that a module runs with now."""
    yield from _chosen(request.param)


@pytest.fixture(params=NAMES)
def kernel_of_test(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the kernel that a test or class runs with."""
    yield from _chosen(request.param)


def _chosen(name: str) -> Iterator[str]:
    if name == "native" and not kernel.is_built():
        pytest.skip("the native kernel has not been built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernel.VARIABLE, name)
        yield name
