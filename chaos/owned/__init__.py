"""What the owner of a service under chaos has written: copied into a rendered service."""
