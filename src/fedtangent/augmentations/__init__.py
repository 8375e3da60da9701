"""What is done at random to the rows of a batch: one kind of inputs, one file."""
