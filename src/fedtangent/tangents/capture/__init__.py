"""Where a model uses its parameters, and its Jacobian as an operator: J without storing J."""
