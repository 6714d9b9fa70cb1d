"""Routes for operators and trainers: typed input, and a scope for each route.

It may import `pipeline` and what stands below; it never imports the application.
"""
