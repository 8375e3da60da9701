"""What outputs are worth on some rows, beside accuracy: one metric, one file."""
