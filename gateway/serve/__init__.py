"""How `gateway serve` runs: the HTTP server, its sockets, and several processes under a supervisor.

It may import every room but the doors.
"""
