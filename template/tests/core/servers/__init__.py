"""A real database for the tests, fresh for each."""
