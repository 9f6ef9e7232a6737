"""One algorithm a file, each in the order of its paper."""
