"""stragglers: a node whose answer would come after the deadline is absent."""

import numpy as np

from fedtangent.errors import SettingError
from fedtangent.federation.presence import Draw, Fault, Missing, Planned


def stragglers(*, deadline: float = 2.0, work: bool = True, spread: float = 0.5, jitter: float = 0.25) -> Fault:
    """A node is absent in the rounds in which its time, a number that is drawn and not measured, is past the deadline.

        time = rows / mean rows of a node  x  exp(spread d_k)  x  exp(jitter j_k,round),   d, j standard normal

    The unit is the time of a node with the mean number of rows, a usual device and no jitter. Rows stand for
    multiply-adds: a node's would be known only after the round, and differ with the engine, which pads. An absent node
    counts as if it had known that it would be late: it computes and sends nothing.

    Args:
        deadline: Time past which a node is absent, in that unit.
        work: Whether time grows with a node's rows; otherwise all have as much to do.
        spread: How unlike the nodes' devices are, for the whole run: the deviation of the logarithm of their speeds.
        jitter: The same of what differs from round to round.

    Raises:
        ValueError: A number that is negative, or a deadline of 0.
    """
    if not deadline > 0:
        raise SettingError(f"`deadline` must be positive; got {deadline}. Use 2 for twice the usual time.")
    for name, value in (("spread", spread), ("jitter", jitter)):
        if not 0 <= value < np.inf:
            raise SettingError(f"`{name}` must be a number that is not negative; got {value}. Use 0 for none.")

    def missing(planned: Planned, draw: Draw) -> Missing:
        rows = np.array(planned.rows, dtype=np.float64)
        share = rows / rows.mean() if work else np.ones_like(rows)
        # by logarithms: exp overflows where a deviation is large
        slow = spread * draw(0).standard_normal(len(rows)) + jitter * draw(planned.round).standard_normal(len(rows))
        late = np.log(share) + slow > np.log(deadline)
        return Missing(nodes=np.flatnonzero(late).tolist())

    return Fault(missing)
