"""Reads a response: the tokens and logprobs of each choice apart from the rest, and back again.

It may import `codec`.
"""
