"""Every rule is what its paper's formula, typed as loops, gives; how far liars can move it; cases worked by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent.federation import Given, Rule
from fedtangent.federation.rule import averaged, totalled
from fedtangent.rules.clipping import clipping
from fedtangent.rules.cs_plus import cs_plus
from fedtangent.rules.geometric_median import geometric_median
from fedtangent.rules.krum import krum
from fedtangent.rules.median import median
from fedtangent.rules.norm_clipping import norm_clipping
from fedtangent.rules.trimmed_mean import trimmed_mean

M, SIZE, OWN = 9, 5, 3
EVERY = {
    "trimmed_mean": trimmed_mean(liars=2),
    "median": median(),
    "krum": krum(liars=2),
    "multi_krum": krum(liars=2, chosen=4),
    "geometric_median": geometric_median(),
    "clipping": clipping(quantile=0.6),
    "cs_plus": cs_plus(liars=2),
    "norm_clipping": norm_clipping(),
}


SCREENED = cs_plus(liars=2)._replace(sums="screen")


def messages(seed: int = 3, m: int = M) -> list[list[float]]:
    return np.random.default_rng(seed).normal(size=(m, SIZE)).tolist()


def weights(seed: int = 4, m: int = M) -> list[float]:
    drawn = np.random.default_rng(seed).random(m) + 0.2
    return (drawn / drawn.sum()).tolist()


def of(rule: Rule, x: Sequence[Sequence[float]], w: Sequence[float], own: int | None = OWN) -> list[float]:
    """The rule's average."""
    given = Given(
        torch.tensor(x, dtype=torch.float64), torch.tensor(w, dtype=torch.float64), own, rule.tolerated(len(x))
    )
    return rule.average(given).tolist()


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def length(a: Sequence[float]) -> float:
    return distance(a, [0.0] * len(a))


def literal_trimmed_mean(x: list[list[float]], w: list[float], f: int) -> list[float]:
    found = []
    for column in zip(*x, strict=True):
        left = sorted(range(len(x)), key=lambda i: column[i])[f : len(x) - f]
        found.append(sum(w[i] * column[i] for i in left) / sum(w[i] for i in left))
    return found


def literal_krum(x: list[list[float]], w: list[float], f: int, chosen: int) -> list[float]:
    scores = []
    for i, own in enumerate(x):
        squared = sorted(distance(own, other) ** 2 for j, other in enumerate(x) if j != i)
        scores.append(sum(squared[: len(x) - f - 2]))
    best = sorted(range(len(x)), key=lambda i: scores[i])[:chosen]
    return [sum(w[i] * x[i][p] for i in best) / sum(w[i] for i in best) for p in range(SIZE)]


def literal_clipped(x: list[list[float]], w: list[float], own: int, tau: float) -> list[float]:
    """x_i + sum_j W_ij clip(x_j - x_i, tau)."""
    found = list(x[own])
    for other, weight in zip(x, w, strict=True):
        far = distance(other, x[own])
        for p in range(SIZE):
            found[p] += weight * min(1.0, tau / far if far else 1.0) * (other[p] - x[own][p])
    return found


def literal_radius(x: list[list[float]], own: int, quantile: float) -> float:
    others = sorted(distance(other, x[own]) for j, other in enumerate(x) if j != own)
    return others[math.ceil(quantile * len(others)) - 1]


def literal_cs_radius(x: list[list[float]], w: list[float], own: int, f: int) -> float:
    """The largest distance beyond which, of all weights, there is one of 2 b or more."""
    b = sum(sorted((weight for j, weight in enumerate(w) if j != own), reverse=True)[:f])
    far = [distance(other, x[own]) for other in x]
    return max(tau for tau in far if sum(weight for d, weight in zip(far, w, strict=True) if d > tau) >= 2 * b - 1e-12)


def test_trimmed_mean_is_the_paper_s() -> None:
    for f in (0, 1, 3, 4):
        assert of(trimmed_mean(liars=f), messages(), weights()) == pytest.approx(
            literal_trimmed_mean(messages(), weights(), f), rel=1e-12
        )


def test_trimmed_mean_of_equal_weights_worked_by_hand() -> None:
    x = [[1.0, 8.0], [2.0, -9.0], [100.0, 0.0], [3.0, 1.0], [4.0, 2.0]]
    assert of(trimmed_mean(liars=1), x, [0.2] * 5) == pytest.approx([3.0, 1.0])
    assert of(trimmed_mean(liars=2), x, [0.2] * 5) == pytest.approx([3.0, 1.0])
    assert of(trimmed_mean(liars=1), [[1.0], [2.0], [9.0], [4.0]], [0.25] * 4) == pytest.approx([3.0])


@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_median_is_numpy_s(m: int) -> None:
    assert of(median(), messages(m=m), weights(m=m)) == pytest.approx(np.median(messages(m=m), axis=0).tolist())


@pytest.mark.parametrize("chosen", [1, 3, 5])
def test_krum_is_the_paper_s(chosen: int) -> None:
    for f in (0, 1, 3):
        assert of(krum(liars=f, chosen=chosen), messages(), weights()) == pytest.approx(
            literal_krum(messages(), weights(), f, chosen), rel=1e-12
        )


def test_krum_worked_by_hand() -> None:
    """Of 0, 1, 1.5, 10, 11 and one liar two nearest count: 1 + 2.25, 1 + .25, .25 + 2.25, 1 + 72.25, 1 + 90.25."""
    x = [[0.0], [1.0], [1.5], [10.0], [11.0]]
    assert of(krum(liars=1), x, [0.2] * 5) == [1.0]
    assert of(krum(liars=1, chosen=2), x, [0.2, 0.3, 0.1, 0.2, 0.2]) == pytest.approx([(0.3 * 1 + 0.1 * 1.5) / 0.4])


def test_geometric_median_is_where_the_pulls_balance() -> None:
    """The optimality condition, which needs no algorithm: unit vectors to the messages, by weight, sum to zero."""
    x, w = messages(), weights()
    z = of(geometric_median(steps=2000, smoothing=1e-12), x, w)
    pull = [sum(wi * (xi[p] - z[p]) / distance(xi, z) for xi, wi in zip(x, w, strict=True)) for p in range(SIZE)]
    assert length(pull) < 1e-9


def test_geometric_median_s_steps_are_the_paper_s() -> None:
    x, w = messages(), weights()
    z = [sum(wi * xi[p] for xi, wi in zip(x, w, strict=True)) for p in range(SIZE)]
    nu = 0.4 * sum(distance(xi, z) for xi in x) / M
    for _ in range(3):
        beta = [wi / max(nu, distance(xi, z)) for xi, wi in zip(x, w, strict=True)]
        z = [sum(b * xi[p] for xi, b in zip(x, beta, strict=True)) / sum(beta) for p in range(SIZE)]
    assert of(geometric_median(steps=3, smoothing=0.4), x, w) == pytest.approx(z, rel=1e-12)


def test_geometric_median_of_three_points_on_a_line_is_the_middle_one() -> None:
    assert of(geometric_median(steps=3000), [[0.0], [1.0], [50.0]], [1 / 3] * 3) == pytest.approx([1.0], abs=1e-3)
    assert of(geometric_median(), [[2.0]] * 3, [1 / 3] * 3) == [2.0]


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.51, 0.9, 1.0])
def test_clipping_is_the_paper_s(quantile: float) -> None:
    tau = literal_radius(messages(), OWN, quantile)
    expected = literal_clipped(messages(), weights(), OWN, tau)
    assert of(clipping(quantile=quantile), messages(), weights()) == pytest.approx(expected, rel=1e-12)
    assert of(clipping(radius=tau), messages(), weights()) == pytest.approx(expected, rel=1e-12)


def test_clipping_worked_by_hand() -> None:
    """From 0 to 3 and -40, at the lower half of the distances: both move by 3."""
    assert of(clipping(), [[0.0], [3.0], [-40.0]], [0.5, 0.3, 0.2], own=0) == pytest.approx([0.3])


@pytest.mark.parametrize("f", [0, 1, 2, 3])
def test_cs_plus_is_the_paper_s(f: int) -> None:
    tau = literal_cs_radius(messages(), weights(), OWN, f)
    assert of(cs_plus(liars=f), messages(), weights()) == pytest.approx(
        literal_clipped(messages(), weights(), OWN, tau), rel=1e-12
    )


def test_cs_plus_worked_by_hand() -> None:
    """Six equal weights and one liar: the two furthest, 9 and 10, are clipped to the third distance, 3."""
    x = [[0.0], [1.0], [2.0], [3.0], [-9.0], [10.0]]
    assert of(cs_plus(liars=1), x, [1 / 6] * 6, own=0) == pytest.approx([(1 + 2 + 3 - 3 + 3) / 6])
    assert of(cs_plus(liars=2), x, [1 / 6] * 6, own=0) == pytest.approx([(1 + 1 + 1 - 1 + 1) / 6])


def test_norm_clipping_worked_by_hand() -> None:
    x = [[3.0, 4.0], [0.0, 1.0], [0.0, -20.0]]
    assert of(norm_clipping(), x, [0.2, 0.3, 0.5], own=None) == pytest.approx([0.6, 0.8 + 0.3 - 2.5])


@pytest.mark.parametrize("rule", [cs_plus(liars=1), clipping()])
def test_a_centred_rule_of_a_node_alone_is_its_own(rule: Rule) -> None:
    assert of(rule, [[1.0, -2.0]], [1.0], own=0) == [1.0, -2.0]


@pytest.mark.parametrize("name", EVERY)
def test_messages_that_are_all_alike_are_their_average(name: str) -> None:
    x = [messages()[0]] * M
    assert of(EVERY[name], x, weights()) == pytest.approx(x[0], rel=1e-12)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [10.0, 1e6])
def test_two_liars_of_nine_move_the_average_no_further_than_the_honest_are_wide(name: str, size: float) -> None:
    """Below the breakdown point what liars send does not matter beyond the spread of the honest messages."""
    x = messages()
    for place, liar in ((0, size), (7, size * 1.1)):
        x[place] = [liar] * SIZE
    honest = [own for place, own in enumerate(x) if place not in (0, 7)]
    wide = max(distance(a, b) for a in honest for b in honest)
    assert min(distance(of(EVERY[name], x, weights()), own) for own in honest) <= 2 * wide


@pytest.mark.parametrize(
    ("rule", "liars"),
    [(trimmed_mean(liars=2), 3), (median(), 5), (krum(liars=2), 5), (geometric_median(steps=500), 5)],
)
def test_above_its_breakdown_point_liars_carry_an_average_away(rule: Rule, liars: int) -> None:
    x = [[1e6] * SIZE if place < liars else own for place, own in enumerate(messages())]
    assert min(of(rule, x, [1 / M] * M)) > 1e4


def test_fewer_messages_than_a_rule_needs_make_it_bear_fewer_liars() -> None:
    rule = trimmed_mean(liars=3)
    assert [rule.tolerated(m) for m in (1, 2, 3, 4, 5, 7, 20)] == [0, 0, 1, 1, 2, 3, 3]
    assert [krum(liars=1).tolerated(m) for m in (1, 4, 5)] == [0, 0, 1]
    assert [cs_plus(liars=2).tolerated(m) for m in (3, 4, 6)] == [0, 1, 2]
    assert [median().tolerated(m) for m in (1, 2, 3, 6)] == [0, 0, 1, 2]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_few_messages_are_averaged_by_every_rule(name: str, m: int) -> None:
    assert all(map(math.isfinite, of(EVERY[name], messages(m=m), weights(m=m), own=0)))


def tree(values: Sequence[float]) -> dict[str, Tensor]:
    a, b = torch.tensor(values[:2]).float(), torch.tensor(values[2:], dtype=torch.float64)
    return {"a": a, "b": b, "n": torch.tensor(int(10 * values[0]))}


def test_a_tree_is_averaged_as_one_vector_and_keeps_its_types() -> None:
    found = averaged(krum(liars=2), [tree(own) for own in messages()], weights(), OWN)
    expected = tree(of(krum(liars=2), messages(), weights()))
    torch.testing.assert_close(found["a"], expected["a"])
    torch.testing.assert_close(found["b"], expected["b"])
    assert int(found["n"]) == int(10 * messages()[OWN][0])


@pytest.mark.parametrize("name", ["trimmed_mean", "geometric_median", "cs_plus"])
def test_a_total_by_the_rule_is_all_rows_times_its_average_of_what_a_row_brings_tensor_by_tensor(name: str) -> None:
    rows = [3.0, 7.0, 1.0, 4.0, 9.0, 2.0, 5.0, 8.0, 6.0]
    values = [
        {
            "g": torch.tensor(own[:2], dtype=torch.float64) * n,
            "q": torch.tensor(own[2:], dtype=torch.float64) * n,
            "rows": torch.tensor(int(n)),
        }
        for own, n in zip(messages(), rows, strict=True)
    ]
    found = totalled(EVERY[name]._replace(sums="rule"), values, rows, OWN)
    shares = [n / sum(rows) for n in rows]
    for part, cut in (("g", slice(0, 2)), ("q", slice(2, None))):
        mean = of(EVERY[name], [own[cut] for own in messages()], shares)
        assert found[part].tolist() == pytest.approx([sum(rows) * entry for entry in mean], rel=1e-12)
    assert int(found["rows"]) == 45


@pytest.mark.parametrize("rule", [trimmed_mean(liars=0), trimmed_mean(liars=0)._replace(sums="rule"), SCREENED])
def test_a_total_without_liars_or_of_what_is_screened_alone_is_the_sum(rule: Rule) -> None:
    values = [torch.tensor(own, dtype=torch.float64) for own in messages()]
    rows = [3.0, 7.0, 1.0, 4.0, 9.0, 2.0, 5.0, 8.0, 6.0]
    torch.testing.assert_close(totalled(rule, values, rows, None), sum(values))


def test_of_a_total_the_longest_per_row_are_shortened_to_the_next_tensor_by_tensor() -> None:
    """Two liars may be among six: of lengths a row 5, 1, 2, 10, 3 and 4 those of 5 and 10 become 4."""
    rows = [2.0, 1.0, 1.0, 1.0, 2.0, 1.0]
    values = [
        {"a": torch.tensor([n * x * 0.6, n * x * 0.8]), "b": torch.tensor(y), "n": torch.tensor(3)}
        for n, x, y in zip(rows, (5.0, 1.0, 2.0, 10.0, 3.0, 4.0), (1.0, 1.0, 1.0, 1.0, -2.0, 1.0), strict=True)
    ]
    found = totalled(trimmed_mean(liars=2), values, rows, 1)
    assert found["a"].tolist() == pytest.approx([x * (8 + 1 + 2 + 4 + 6 + 4) for x in (0.6, 0.8)])
    assert float(found["b"]) == pytest.approx(1 + 1 + 1 + 1 - 2 + 1)
    assert int(found["n"]) == 18


def test_of_a_total_no_liar_brings_more_than_the_longest_honest_one_per_row() -> None:
    x = [torch.tensor(own, dtype=torch.float64) for own in messages()]
    plain = totalled(SCREENED, x, [1.0] * M, None)
    for size in (1e3, 1e9):
        false = [size * own if place in (2, 6) else own for place, own in enumerate(x)]
        moved = totalled(trimmed_mean(liars=2), false, [1.0] * M, None) - plain
        assert float(moved.norm()) <= 4 * max(float(own.norm()) for own in x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trimmed_mean(liars=-1), "`liars` must not be negative; got -1."),
        (lambda: cs_plus(liars=-2), "`liars` must not be negative; got -2."),
        (lambda: krum(liars=-1), "`liars` must not be negative; got -1."),
        (lambda: krum(chosen=0), "`chosen` must be at least 1; got 0."),
        (lambda: geometric_median(steps=0), "`steps` must be at least 1; got 0."),
        (lambda: geometric_median(smoothing=0.0), "`smoothing` must be positive and finite; got 0.0."),
        (lambda: clipping(quantile=0.0), "`quantile` must be in (0, 1]; got 0.0."),
        (lambda: clipping(radius=-1.0), "`radius` must be positive; got -1.0."),
        (lambda: norm_clipping(quantile=1.5), "`quantile` must be in (0, 1]; got 1.5."),
    ],
)
def test_a_wrong_option_is_one_sentence(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
