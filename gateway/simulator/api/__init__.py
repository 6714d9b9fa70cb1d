"""The endpoints of the simulator, in vLLM's formats and words."""
