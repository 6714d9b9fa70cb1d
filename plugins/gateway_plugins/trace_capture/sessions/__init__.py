"""Sessions in the database: their owners, sampling parameters and rewards."""
