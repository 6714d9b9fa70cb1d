"""Files that callers upload in several parts, one after the other or at the same time.

`rows.py` has the rows of uploads and of their parts; `uploads.py` keeps the parts and joins them.
The contents of the parts are in the folder of files. The room imports `files` and `options`.
"""
