"""A pytest plugin: tests marked `both_kernels` run with the native kernel and with Python's.

`pytestmark = pytest.mark.both_kernels` marks a module: all of it runs with one, then with the
other. A fixture of the module's own scope that assembles gateways must ask for `kernel_of_module`,
else it keeps the first. The kernel is in the environment before the test's own fixtures are set up,
so that what they assemble has it, and processes that they start.
"""

from collections.abc import Iterator

import pytest

from gateway import kernel

NAMES = ("native", "python")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_kernels") is None:
        return
    module = metafunc.definition.getparent(pytest.Module)
    whole = module is not None and module.get_closest_marker("both_kernels") is not None
    fixture = "kernel_of_module" if whole else "kernel_of_test"
    metafunc.fixturenames.insert(0, fixture)
    metafunc.parametrize(fixture, NAMES, indirect=True)


@pytest.fixture(scope="module")
def kernel_of_module(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the kernel that a marked module runs with now."""
    yield from _chosen(request.param)


@pytest.fixture
def kernel_of_test(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the kernel that a marked test or class runs with."""
    yield from _chosen(request.param)


def _chosen(name: str) -> Iterator[str]:
    if name == "native" and not kernel.is_built():
        pytest.skip("the native kernel has not been built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernel.VARIABLE, name)
        yield name
