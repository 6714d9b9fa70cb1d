"""A pytest plugin: tests marked `both_kernels` run with the native kernel and with Python's.

`pytestmark = pytest.mark.both_kernels` marks a module. The kernel is in the environment before the
test's own fixtures are set up, so that what they assemble has it, and processes that they start.
"""

from collections.abc import Iterator

import pytest

from gateway import kernel

FIXTURE = "kernel_in_use"
NAMES = ("native", "python")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_kernels") is not None:
        metafunc.fixturenames.insert(0, FIXTURE)
        metafunc.parametrize(FIXTURE, NAMES, indirect=True)


@pytest.fixture
def kernel_in_use(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the kernel that a test marked `both_kernels` runs with."""
    name: str = request.param
    if name == "native" and not kernel.is_built():
        pytest.skip("the native kernel has not been built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernel.VARIABLE, name)
        yield name
