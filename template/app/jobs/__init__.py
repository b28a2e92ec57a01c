"""Your jobs, a module each. Every module here is found by itself."""
