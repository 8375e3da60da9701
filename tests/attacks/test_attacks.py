"""What liars send is what the attacks' papers say, typed as loops; only liars lie, and only in what leaves them."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.attacks.alie import alie, largest
from fedtangent.attacks.dissensus import dissensus
from fedtangent.attacks.inner_product import inner_product
from fedtangent.attacks.label_flip import label_flip
from fedtangent.attacks.nan import nan
from fedtangent.attacks.noise import noise
from fedtangent.attacks.scaling import scaling
from fedtangent.attacks.sign_flip import sign_flip
from fedtangent.channels.quantize import quantize
from fedtangent.federation import Attack, Coding, Each, Fleet, Graph, Ledger, Liars, Link, Transport, Wire
from fedtangent.federation.looking import seen
from fedtangent.shard import Shard
from fedtangent.transports.memory import memory
from fedtangent.transports.threads import threads
from tests import tiny_federation as federation
from tests.tiny_federation import GRAPH, ROWS, SEED, assert_close, assert_same, philox

LIARS = (1, 4)
NODES = range(len(ROWS))
HONEST = [node for node in NODES if node not in LIARS]


def value(node: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(node)
    return {"n": torch.tensor(node), "w": torch.from_numpy(rng.normal(size=(2, 3)))}


def fleet(attack: Attack, transport: Transport | None = None, round: int = 1, **options: Any) -> Fleet:
    wire = Wire(transport or memory(), liars=Liars(attack, frozenset(LIARS), SEED), **options)
    wire.begin(round)
    return federation.fleet(wire=wire, round=round)


def shared(attack: Attack, **options: Any) -> list[list[Tensor]]:
    """What every node gets of its neighbours, in their order."""
    now = fleet(attack, **options)
    return [list(inbox.values["w"]) for inbox in now.share(now.each([value(node) for node in NODES])).values]


def told(attack: Attack, receiver: int, sender: int, **options: Any) -> Tensor:
    return shared(attack, **options)[receiver][GRAPH.neighbours[receiver].index(sender)]


@pytest.mark.parametrize(
    ("attack", "factor"),
    [(sign_flip(), -1.0), (sign_flip(factor=4.0), -4.0), (scaling(), 10.0), (scaling(factor=-0.5), -0.5)],
)
def test_a_multiple_is_sent_by_liars_alone(attack: Attack, factor: float) -> None:
    for receiver, inbox in enumerate(shared(attack)):
        for sender, got in zip(GRAPH.neighbours[receiver], inbox, strict=True):
            assert_same(got, value(sender)["w"] * (factor if sender in LIARS else 1.0))


def test_noise_is_drawn_by_round_verb_and_node() -> None:
    """The second verb of the third round: a share counts as two, a question and its answers."""
    now = fleet(noise(deviation=3.0), round=3)
    x_k = now.each([value(node) for node in NODES])
    now.share(x_k)
    inbox = now.share(x_k).values[2]
    expected = value(1)["w"] + 3 * torch.from_numpy(philox("attack 4", 3, 1).normal(size=(2, 3)))
    assert_same(inbox.values["w"][0], expected)


def test_nan_is_sent_as_nan_and_labels_are_turned_round() -> None:
    assert nan().lie is not None and label_flip().lie is None
    now = fleet(nan())
    out = now.wire.said(now.wire.tag(), {(link := Link(1, 0)): value(1)}, [link])
    assert torch.isnan(out[link]["w"]).all()
    assert int(out[link]["n"]) == 1
    shard = Shard(torch.zeros(4, 2), torch.tensor([0, 1, 2, 4]), torch.ones(4, dtype=torch.bool))
    flip = label_flip().data
    assert flip is not None
    assert flip(shard, 5).y.tolist() == [4, 3, 2, 0]


def test_alie_is_the_paper_s() -> None:
    for receiver in NODES:
        its = [value(j)["w"].tolist() for j in GRAPH.neighbours[receiver] if j not in LIARS]
        for sender in set(GRAPH.neighbours[receiver]) & set(LIARS):
            expected = value(sender)["w"].tolist()
            for i in range(2 if its else 0):
                for j in range(3):
                    numbers = [own[i][j] for own in its]
                    mu = sum(numbers) / len(numbers)
                    expected[i][j] = mu - 1.5 * math.sqrt(sum((x - mu) ** 2 for x in numbers) / len(numbers))
            assert_close(told(alie(z=1.5), receiver, sender), torch.tensor(expected, dtype=torch.float64), 1e-12)


def test_alie_s_bound_worked_by_hand() -> None:
    """Of 50 senders 12 lie: s = 26 - 12 = 14, and 24 of the 38 honest must be nearer: z = Phi^-1(24 / 38) = 0.336."""
    assert largest(50, 12) == pytest.approx(NormalDist().inv_cdf(24 / 38))
    assert largest(50, 12) == pytest.approx(0.336, abs=1e-3)
    assert largest(6, 1) == 0.0
    assert largest(3, 3) == 0.0


def test_inner_product_is_the_paper_s() -> None:
    honest = torch.stack([value(j)["w"] for j in GRAPH.neighbours[2] if j not in LIARS])
    assert_close(told(inner_product(factor=0.7), 2, 4), -0.7 * honest.mean(0), 1e-12)
    assert_close(told(inner_product(), 0, 1), -0.5 * value(1)["w"], 1e-12)  # nobody honest beside node 0


def mixed(attack: Attack, weights: Any) -> list[Tensor]:
    now = fleet(attack)
    now = federation.fleet(wire=now.wire, gossip_weights=weights)
    return [x["w"] for x in now.mix(now.each([value(node) for node in NODES])).values]


@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
def test_dissensus_leaves_every_node_beside_a_liar_where_it_was(weights: Any) -> None:
    for node, found in enumerate(mixed(dissensus(), weights)):
        if node not in LIARS and set(GRAPH.neighbours[node]) & set(LIARS):
            assert_close(found, value(node)["w"], 1e-12)


def test_dissensus_is_the_paper_s() -> None:
    """Node 5 averages with 1 and 4, liars both; node 2 with 1, 3 and 4, of which 3 is honest."""
    w = GRAPH.gossip("metropolis")
    x = [value(node)["w"] for node in NODES]
    lie = x[2] - 0.3 * w[2, 3] * (x[3] - x[2]) / (w[2, 1] + w[2, 4])
    expected = w[2, 2] * x[2] + w[2, 3] * x[3] + (w[2, 1] + w[2, 4]) * lie
    found = mixed(dissensus(strength=0.3), "metropolis")
    assert_close(found[2], expected, 1e-12)
    assert_close(found[5], x[5], 1e-12)
    assert_same(told(dissensus(), 2, 4), value(4)["w"])  # nothing is averaged in a share


ALL = {
    "sign_flip": sign_flip(),
    "noise": noise(),
    "alie": alie(z=0.5),
    "inner_product": inner_product(),
    "dissensus": dissensus(),
    "nan": nan(),
}


def verbs(now: Fleet, x_k: Each[Any]) -> dict[str, Any]:
    rows_k = now.each([torch.tensor(n) for n in ROWS])

    def answer(x: Any, y: Any) -> dict[str, Tensor]:
        return {"both": x["w"] + 2 * y["w"]}

    return {
        "mix": now.mix(x_k),
        "share": now.share(x_k),
        "ask": now.ask(answer, x_k, x_k),
        "ask_sum": now.ask_sum(answer, x_k, x_k),
        "ask_total": now.ask_total(answer, x_k, x_k),
        "mean": now.mean(x_k, rows_k),
        "sum": now.sum(x_k)[0],
        "gather": now.gather(x_k),
    }


def played(transport: Transport, attack: Attack) -> tuple[Any, Ledger]:
    now = fleet(attack, transport)
    found = verbs(now, now.each([value(node) for node in NODES]))
    return {name: seen(now, part) for name, part in found.items()}, now.wire.books(now.nodes)


@pytest.mark.parametrize("name", ALL)
def test_lies_are_the_same_in_threads_and_cost_no_byte_more(name: str) -> None:
    expected, bill = played(memory(), ALL[name])
    found = threads(NODES, lambda transport: played(transport, ALL[name]))
    for values, _ in found:
        assert_same(values, expected)
    assert found[0][1].state() == bill.state()


@pytest.mark.parametrize("name", ["sign_flip", "alie", "noise"])
def test_every_verb_carries_lies_and_the_bill_is_that_of_the_honest(name: str) -> None:
    honest, bill = played(memory(), Attack())
    found, false = played(memory(), ALL[name])
    assert (false.sent, false.received) == (bill.sent, bill.received)
    for verb, part in honest.items():
        assert any(not torch.equal(a, b) for a, b in zip(_leaves(part), _leaves(found[verb]), strict=True)), verb


def _leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in trees.leaves(tree) if isinstance(leaf, Tensor)]


def test_a_liar_s_coded_message_takes_as_few_bytes() -> None:
    sent = []
    for attack in (Attack(), sign_flip()):
        now = fleet(attack, coding=Coding([quantize(levels=15)]))
        x_k = now.each([value(node) for node in NODES])
        now.mix(x_k, "weights")
        now.mean(x_k, message="weights")
        now.ask(lambda x, y: y, x_k, x_k, message="rows")
        sent.append(now.ledger.sent)
    assert sent[0] == sent[1]


def test_nobody_lies_to_evaluation() -> None:
    now = fleet(sign_flip())
    x_k = now.each([value(node) for node in NODES])
    with now.ledger.paused():
        assert_same([x["w"] for x in now.mix(x_k).values], mixed(Attack(), "uniform"))


def test_a_liar_knows_nothing_that_a_round_before_it_drew() -> None:
    """Noise after other rounds is that of the round alone, as in a run that is gone on with."""
    now = fleet(noise(), round=1)
    x_k = now.each([value(node) for node in NODES])
    now.mix(x_k)
    now.wire.begin(2)
    later = [x["w"] for x in federation.fleet(wire=now.wire, round=2).mix(x_k).values]
    fresh = fleet(noise(), round=2)
    assert_same(later, [x["w"] for x in fresh.mix(fresh.each([value(node) for node in NODES])).values])


def test_a_lonely_liar_harms_nobody() -> None:
    graph = Graph([(0, 2)], len(ROWS))
    now = federation.fleet(wire=fleet(alie(z=1.0)).wire, graph=graph)
    x_k = now.each([value(node) for node in NODES])
    assert_same(now.mix(x_k).values[0]["w"], (0.5 * value(0)["w"]).add_(value(2)["w"], alpha=0.5))
    assert len(now.share(x_k).values[1].real) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sign_flip(factor=0.0), "`factor` must be positive and finite; got 0.0."),
        (lambda: scaling(factor=1.0), "`factor` must be finite and not 1, which changes nothing; got 1.0."),
        (lambda: noise(deviation=-1.0), "`deviation` must be positive and finite; got -1.0."),
        (lambda: alie(z=0.0), "`z` must be positive and finite; got 0.0."),
        (lambda: inner_product(factor=math.inf), "`factor` must be positive and finite; got inf."),
        (lambda: dissensus(strength=0.0), "`strength` must be positive and finite; got 0.0."),
    ],
)
def test_a_wrong_option_is_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
