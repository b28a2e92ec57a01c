"""Your routes. Every module here that has a `router` is found by itself."""
