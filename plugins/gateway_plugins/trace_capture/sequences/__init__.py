"""Turns of a session as one sequence of tokens: which turn continues which, and trajectories.

The room may import `codec`.
"""
