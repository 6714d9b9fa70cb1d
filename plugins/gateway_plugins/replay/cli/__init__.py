"""`gateway replay`: drives a recorded run again, without the agent.

`commands.py` begins, `driving.py` sends the calls to a gateway in this process, `comparing.py` says
how the new answers differ. The room imports the other files of the plugin.
"""
