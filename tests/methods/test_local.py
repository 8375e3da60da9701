import pytest
from torch import Tensor

from fedtangent.methods.local import local
from tests import tiny_federation as federation
from tests.methods.literal_sgd import train
from tests.tiny_federation import ROWS, assert_close, philox


def transcript(node: int, rounds: int, epochs: int, batch: int, lr: float, momentum: float) -> dict[str, Tensor]:
    """Torch's own SGD on one node's rows."""
    model, (x, y, _) = federation.network(), federation.shards()[node]
    for k in range(1, rounds + 1):
        train(model, x, y, philox("batches", k, node), epochs, batch, lr, momentum)
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("epochs", "batch", "lr", "momentum"), [(2, 3, 0.3, 0.0), (1, 4, 0.1, 0.8)])
def test_is_sgd_on_every_node_alone(epochs: int, batch: int, lr: float, momentum: float) -> None:
    options = {"epochs": epochs, "batch": batch, "lr": lr, "momentum": momentum}
    found = federation.run(local(federation.task(), **options), rounds=3)  # type: ignore[arg-type]
    expected = [transcript(node, 3, **options) for node in range(len(ROWS))]  # type: ignore[arg-type]
    assert_close(found.state.w_k.values, expected)
    assert_close(found.aggregate, {part: sum(w[part] for w in expected) / len(ROWS) for part in expected[0]})
    assert found.ledger.sent_bytes == 0
