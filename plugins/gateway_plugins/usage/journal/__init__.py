"""The file that outlives a gateway that dies: calls in flight, and what recovery counts of them."""
