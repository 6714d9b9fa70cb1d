"""Plugins: the hooks they may implement, how they are found, checked, ordered and run.

It may import `calls` and what stands below; it never imports the application.
"""
