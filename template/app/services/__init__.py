"""What jobs and routes do. A service stores settings, and opens live resources in its methods."""
