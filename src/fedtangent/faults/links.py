"""links: a link fails for a round, both ways, by chance."""

from fedtangent.errors import SettingError
from fedtangent.federation.presence import Draw, Fault, Missing, Planned


def links(*, failing: float = 0.1) -> Fault:
    """Every link fails in every round with the same probability, whichever else does.

    Between neighbours both go on without each other. With a server a node's only link is that to the server: where it
    fails, the node is absent.

    Args:
        failing: Probability that a link fails in a round, from 0 to 1.

    Raises:
        ValueError: No probability.
    """
    if not 0 <= failing <= 1:
        raise SettingError(f"`failing` must be from 0 to 1; got {failing}. Use 0.1 for one link of ten.")

    def missing(planned: Planned, draw: Draw) -> Missing:
        chance = draw(planned.round).random(len(planned.links))
        return Missing(links=[link for link, one in zip(planned.links, chance, strict=True) if one < failing])

    return Fault(missing)
