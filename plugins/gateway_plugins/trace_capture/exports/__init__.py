"""Trajectories as files: from a session's branches to rows, and from rows to a file.

`sessions_out.py` begins: it makes the trajectories of a session and writes a row of each. The room
`trainers` has the rows of each trainer, `formats.py` the table of all formats.
"""
