"""Who holds which training rows: one way to divide a data set among nodes, one file."""
