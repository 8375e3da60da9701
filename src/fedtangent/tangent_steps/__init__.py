"""What the federated methods of the tangent space share: one step from sums, or from a kernel; none knows a method."""
