"""The embedded engine: one SQLite file, one thread that writes, threads that read.

`connection.py` is its Database, `rows.py` inserts many rows at once, `migrate.py` creates tables.
`file.py` opens the file, `file_in_use.py` notices that it was replaced, `faults.py` translates its
errors, `writer.py` is the writer thread, `readers.py` are the reader threads, `write_lock.py`
serializes the writers of several processes. `read_only.py` opens the file for commands that read,
`change_file.py` for those that change it.

It may import the ground, `config`, `telemetry`, and `database` and `sink` beside it.
"""
