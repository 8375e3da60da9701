import pytest
import torch
from torch import Tensor

from fedtangent.federation import SERVER
from fedtangent.methods.central import central
from tests import tiny_federation as federation
from tests.methods.literal_sgd import train
from tests.tiny_federation import INPUTS, ROWS, assert_close, philox


def transcript(
    rounds: int, epochs: int, batch: int, lr: float, momentum: float, weight_decay: float
) -> dict[str, Tensor]:
    """Torch's own SGD on all rows in one place, half the decay times |w|^2 in its loss."""

    def term(model: torch.nn.Module, _: Tensor) -> Tensor:
        return weight_decay / 2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()

    model = federation.network()
    x, y, _ = (torch.cat(column) for column in zip(*federation.shards(), strict=True))
    for k in range(1, rounds + 1):
        train(model, x, y, philox("batches", k), epochs, batch, lr, momentum, term=term)
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("epochs", "batch", "lr", "momentum", "decay"),
    [(2, 5, 0.3, 0.0, 0.0), (1, 4, 0.1, 0.8, 0.03), (3, 100, 0.2, 0.5, 0.0)],
)
def test_is_sgd_on_the_union(epochs: int, batch: int, lr: float, momentum: float, decay: float) -> None:
    method = central(federation.task(), epochs=epochs, batch=batch, lr=lr, momentum=momentum, weight_decay=decay)
    assert_close(federation.run(method, rounds=3).aggregate, transcript(3, epochs, batch, lr, momentum, decay))


def test_rows_held_twice_count_twice() -> None:
    data = federation.shards()
    method = central(federation.task(), batch=100)
    doubled = federation.run(method, [data[0], data[0], data[2]], rounds=1, graph=None).aggregate
    x, y = (torch.cat([data[0][part], data[0][part], data[2][part]]) for part in (0, 1))
    model = federation.network()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    assert_close(doubled, {name: (p - 0.1 * p.grad).detach() for name, p in model.named_parameters()})  # type: ignore[operator]


def test_rows_are_sent_once() -> None:
    ledger = federation.run(central(federation.task()), rounds=3).ledger
    assert dict(ledger.sent) == {node: n * (INPUTS * 8 + 8) for node, n in enumerate(ROWS)}
    assert dict(ledger.received) == {SERVER: sum(ROWS) * (INPUTS * 8 + 8)}
