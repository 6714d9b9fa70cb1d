"""From a finished call to its spans, as messages of OTLP."""
