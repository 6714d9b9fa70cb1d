"""Feeds the native kernel damaged inputs, and compares what it makes of them with Python's result.

`make fuzz INPUTS=1000000` runs all targets against a kernel compiled with AddressSanitizer and
UndefinedBehaviorSanitizer; `--target NAME`, `--seed N` and `--plain` (the kernel as installed) are
in ARGS. `target.py` says what a target is, `targets.py` lists them, `mutation.py` damages inputs,
`conduct.py` runs. `tests/kernel/test_fuzz.py` runs a few thousand inputs every day.
"""
