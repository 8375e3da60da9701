"""What the wire does to a message: one way, one file."""
