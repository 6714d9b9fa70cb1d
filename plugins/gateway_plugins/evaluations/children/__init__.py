"""Child processes that run the code of evaluations, and the environments of Python for them.

`confined.py` runs a command within limits, `users.py` says with whose rights, `pythons.py` builds
environments, `repository.py` has the steps of the protocol. The room imports `options` only, and
starts what is in `programs`.
"""
