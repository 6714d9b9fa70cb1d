"""Usage given back: routes, commands, and the comparison with traces."""
