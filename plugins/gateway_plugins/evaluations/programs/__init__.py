"""Programs of their own, which need nothing but Python's library.

`run_eval.py` loads an evaluation, `confine.py` runs a command within limits, `packing.py` reads
what evaluations return. None of them is imported by the plugin.
"""
