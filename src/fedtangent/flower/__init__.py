"""Flower: a federation under `flwr run`: Flower has identity, scheduling and logs, the sites their own lines."""

ORDER = "fedtangent"  # the one record, and its one entry, of a message between ServerApp and ClientApp
