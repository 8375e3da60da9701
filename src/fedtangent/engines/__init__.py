"""Ways to run a fleet; none knows a method."""
