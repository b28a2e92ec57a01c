"""The figures that README and docs state; `make bench` prints them."""
