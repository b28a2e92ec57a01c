"""What rendering, setting up and size cost; `make bench` prints it."""
