"""The services, one room each: what a request asks for, and the messages of its response.

They import `edge`, `messages` and `status`, and no transport.
"""
