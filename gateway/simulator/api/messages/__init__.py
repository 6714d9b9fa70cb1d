"""Anthropic's Messages: as in vLLM a call is chat inside, and its chat events are translated."""
