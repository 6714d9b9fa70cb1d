"""The plugin `trl`: stands in for one `vllm-serve` of TRL in front of several."""
