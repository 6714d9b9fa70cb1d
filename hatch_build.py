"""The build hook of the package: a wheel has the native kernel if it can be compiled here.

Without a compiler the build asks for ziglang, a C compiler as a package. If nothing compiles, the
package is built without the kernel, says so, and the gateway runs in Python. An editable
installation has the kernel in the tree, beside its sources.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

LACKING = (
    "the native kernel was not compiled: {error}\n"
    "The gateway will run in Python, at more CPU for each call. With a C compiler (gcc or clang;"
    " or one that CC names) install it again, and `gateway --version` says which kernel runs."
)


class KernelHook(BuildHookInterface[Any]):
    """Compiles the kernel before the wheel is put together."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what the build needs beside hatchling: a compiler if the machine has none."""
        wheel = self.target_name == "wheel"
        return ["ziglang"] if wheel and self._build.find_compiler() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the kernel, and put it into any wheel that does not refer to the tree."""
        if self.target_name != "wheel":
            return
        build = self._build
        try:
            if not build.is_current():
                build.build()
        except build.CannotBuild as error:
            self.app.display_warning(LACKING.format(error=error))
            return
        if version != "editable":
            build_data["force_include"][str(build.TARGET)] = f"gateway/kernel/{build.TARGET.name}"
            build_data["pure_python"] = False
            build_data["tag"] = f"cp311-abi3-{self._platform()}"

    @property
    def _build(self) -> ModuleType:
        """Return gateway/kernel/build.py, without the package around it and what that imports."""
        path = Path(self.root) / "gateway" / "kernel" / "build.py"
        spec = importlib.util.spec_from_file_location("kernel_build", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def _platform(self) -> str:
        """Return this machine's tag; not one that promises to run with any older C library."""
        own = (one for one in platform_tags() if "manylinux" not in one and "musllinux" not in one)
        platform = next(own)
        if sys.platform == "darwin":
            from hatchling.builders.macos import process_macos_plat_tag

            return process_macos_plat_tag(platform, compat=False)
        return platform
