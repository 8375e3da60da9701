"""What a node learns, and how: task, losses, solvers, batch norm, dropout, layer groups, label shift."""
