"""Files that callers upload, and files of results: rows of the database, contents in a folder.

`rows.py` has the rows, `folder.py` the contents. The room imports `options` and `queue`.
"""
