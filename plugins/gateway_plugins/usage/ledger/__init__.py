"""Usage in the database: a row for each call, sums over rows, retention."""
