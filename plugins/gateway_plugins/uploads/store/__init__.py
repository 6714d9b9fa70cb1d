"""Uploads as rows of the database, and their bytes as files.

`rows.py` has the rows, `folder.py` the files, `turns.py` says whose turn it is to write one,
and `slots.py` how many of an owner are received at a time.
"""
