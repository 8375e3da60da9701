"""Who talks to whom: one family of graphs, one file."""
