"""The formats of APIs that take token ids: `vllm.py` reads vLLM's generate, `sglang.py`
SGLang's.

The room may import `openai`, of which each is another form.
"""
