"""What the times of a worker tell: when one that is away may be back.

It may import the ground alone.
"""
