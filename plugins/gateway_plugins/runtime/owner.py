"""The one task that owns a runtime."""
