"""Files that callers upload, and files of results: rows of the database, contents in a folder.

`rows.py` has the rows, `folder.py` the contents, `part.py` a content that is being written, and
`files.py` joins them. The room imports `options` and `queue`.
"""
