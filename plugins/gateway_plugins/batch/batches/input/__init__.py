"""Input files: `lines.py` splits them, `checking.py` reads a line as a request, `validating.py`
tells all mistakes of a file.
"""
