"""What rendering, set-up, size and each backend cost; `make bench` prints it."""
