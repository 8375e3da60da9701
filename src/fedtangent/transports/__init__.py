"""Ways for messages to travel; none knows a method."""
