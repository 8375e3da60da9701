"""What goes wrong in a round: one way, one file."""
