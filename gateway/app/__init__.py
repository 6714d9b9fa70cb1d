"""The assembly: the application that holds all rooms together, and its reload.

It may import every room but `serve` and the doors.
"""
