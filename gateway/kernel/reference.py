"""The kernel in Python: it leaves everything to the Python code of the rooms above."""

BUILT = "no C"
SOURCES = ""
