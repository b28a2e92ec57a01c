"""Real replicas under seeded faults, judged by what their jobs did: `make chaos`."""
