"""Fuzzes the native kernel: `make fuzz INPUTS=1000000`."""

import argparse
import os
import sys
import time

from fuzz.conduct import run, run_only
from fuzz.sanitized import VARIABLE, has_leaked, load, run_sanitized
from fuzz.target import Target
from fuzz.targets import TARGETS
from gateway.kernel import build
from gateway.kernel.interface import Functions


def main() -> None:
    options = _parser().parse_args()
    kernel = os.environ.get(VARIABLE)
    if kernel is None and not options.plain:
        sys.exit(run_sanitized(sys.argv[1:]))
    native = load(kernel or str(build.TARGET))
    _tell(f"kernel: {native.BUILT}{', with sanitizers' if kernel else ''}")
    names = options.target or [*TARGETS]
    for name in names:
        if options.only is not None:
            taken = run_only(TARGETS[name](), native, options.only, options.seed)
            _tell(f"{name}: input {options.only} was {'taken' if taken else 'left'}")
        else:
            _fuzz(TARGETS[name](), native, options.inputs // len(names), options.seed)
    if kernel is not None:
        sys.exit(has_leaked())


def _fuzz(target: Target, native: Functions, inputs: int, seed: int) -> None:
    began = time.monotonic()
    report = run(target, native, inputs, seed)
    _tell(
        f"{target.name}: {inputs} inputs without a difference, {report.taken} of them taken,"
        f" {time.monotonic() - began:.0f} s"
    )


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets (100000)")
    parser.add_argument("--seed", type=int, default=1, help="other inputs for another seed (1)")
    parser.add_argument("--target", action="append", choices=[*TARGETS], help="repeatable; all")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="the one input of that number")
    parser.add_argument("--plain", action="store_true", help="the kernel as it is installed")
    return parser


if __name__ == "__main__":
    main()
