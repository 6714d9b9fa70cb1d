"""Batches: a file of requests, each line one item of the queue, and files with their results.

`input` reads and checks the file, `loading.py` queues its lines, `results.py` writes the files of
results. `life.py` takes one batch through these steps, `steps.py` has what the database says after
each, and `conductor.py` chooses the batches that this process works on. `rows.py` has the rows,
`creating.py` what a caller may ask for, `shown.py` what a caller sees, and `batches.py` is what
the others use. The room imports `options`, `queue` and `files`.
"""
