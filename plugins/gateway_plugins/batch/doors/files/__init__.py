"""OpenAI's files: `/v1/files`.

`form.py` reads a form in chunks of any size, `receiving.py` writes its file to the disk,
`content.py` sends a content, `objects.py` has what callers see, and `routes.py` the routes.
"""
