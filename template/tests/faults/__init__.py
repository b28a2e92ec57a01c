"""What is done to whole processes: slower than the other tests, so `make test-faults` runs it."""
