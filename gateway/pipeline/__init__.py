"""The story of one call: `proxy` first, then in call order what it is made of.

It may import `plugins`, `calls`, `fleet` and what stands below.
"""
