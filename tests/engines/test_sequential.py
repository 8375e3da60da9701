import torch

from fedtangent.engines.sequential import sequential
from tests import tiny_federation as federation
from tests.tiny_federation import assert_same


def test_one_node_at_a_time_in_the_given_order() -> None:
    engine = sequential(memory=10**9)
    assert engine.name == "sequential"
    assert engine.chunks((4, 0, 2), {0: 1}) == [[4], [0], [2]]
    seen: list[int] = []
    assert engine.call(lambda x, y: seen.append(x) or x - y, [(5, 1), (3, 4)]) == [4, -1]  # type: ignore[func-returns-value]
    assert seen == [5, 3]
    assert engine.call(lambda: 6, [(), ()]) == [6, 6]


def test_results_hold_real_rows_only() -> None:
    (data,) = federation.shards([4])
    real = torch.tensor([True, False, True, True])
    (found,) = sequential().call(lambda data: data._replace(real=real), [(data,)])
    assert_same(found.x, data.x[real])
