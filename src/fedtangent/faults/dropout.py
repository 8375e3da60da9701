"""dropout: a node is absent for a round, by chance."""

from fedtangent.errors import SettingError
from fedtangent.federation.presence import Draw, Fault, Missing, Planned


def dropout(*, absent: float = 0.3) -> Fault:
    """Every node is absent in every round with the same probability, whoever else is.

    The same nodes are absent for every method; with a larger probability these and more.

    Args:
        absent: Probability that a node is absent in a round, from 0 to 1.

    Raises:
        ValueError: No probability.
    """
    if not 0 <= absent <= 1:
        raise SettingError(f"`absent` must be from 0 to 1; got {absent}. Use 0.3 for three nodes of ten.")

    def missing(planned: Planned, draw: Draw) -> Missing:
        chance = draw(planned.round).random(len(planned.rows))
        return Missing(nodes=[node for node, one in enumerate(chance) if one < absent])

    return Fault(missing)
