import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from fedtangent import trees
from fedtangent.federation import SERVER, Central, Each, Fleet
from fedtangent.methods.sumntk import Size, sumntk
from fedtangent.shard import Shard, join
from fedtangent.tangent_steps import primal
from fedtangent.tangent_steps.step import Score, Step, countable, linearised_rows, summed_loss
from fedtangent.tangents.capture import verified_uses
from fedtangent.tangents.capture.kernel_operator import pullback
from fedtangent.tangents.sketch import projection, sketch
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods import literal_tangent as literal
from tests.tangents import networks
from tests.tiny_federation import OUTPUTS, ROWS, assert_close, philox

K, C = len(ROWS), OUTPUTS
FEW: dict[str, Any] = {"participation": 0.7, "columns": 2, "times": (3, 10, 30), "lr": 2.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "cross-entropy": {"sums": 5},
    "one sum": {"sums": 1},
    "the usual number of sums": {},
    "squared": {"loss": "squared"},
    "everybody": {"participation": 1.0, "sums": 3},
    "as many columns as rows allow": {"columns": None, "participation": 1.0, "sums": 3},
}


def cohort(k: int, participation: float) -> list[int]:
    drawn = philox("cohort", k).choice(K, max(int(participation * K), 1), replace=False)
    return sorted(drawn.tolist())


def residual(f: Tensor, y: Tensor, loss: str) -> Tensor:
    one_hot = nn.functional.one_hot(y, C).double()
    return f.softmax(1) - one_hot if loss == "cross_entropy" else (f - one_hot) / C


def frozen(k: Tensor, r: Tensor, c: float, h: float) -> Tensor:
    """The change of alpha in a time h where d alpha / dh = (r - c K alpha) / N, by a larger matrix's exponential."""
    n = len(k)
    larger = torch.cat([torch.cat([-c * k, r], 1), torch.zeros(C, n + C).double()]) * h / n
    return torch.linalg.matrix_exp(larger)[:n, n:]


def alphas(k: Tensor, f_0: Tensor, y: Tensor, loss: str, s: list[float], sums: int) -> list[Tensor]:
    """The dual state of all rows at the times s: from row to row, with the kernel that no method here ever forms."""
    if loss == "squared":
        course = odeint(
            lambda _, a: residual(f_0 - k @ a, y, loss) / len(k),
            torch.zeros_like(f_0),
            torch.tensor([0, *s]).double(),
            rtol=1e-11,
            atol=1e-13,
        )
        return list(course[1:])
    knots = [s[-1] * (100 ** (j / sums) - 1) / 99 for j in range(sums)]
    found, alpha = {}, torch.zeros_like(f_0)
    for begin, end in pairwise([*knots, math.inf]):
        r = residual(f_0 - k @ alpha, y, loss)
        found |= {time: alpha + frozen(k, r, 0.25, time - begin) for time in s if begin < time <= end}
        alpha = alpha + frozen(k, r, 0.25, end - begin) if math.isfinite(end) else alpha
    return [found[time] for time in s]


def transcript(rounds: int, loss: str, **options: Any) -> tuple[dict[str, Tensor], list[int]]:
    """The server's weights after some rounds, and the times that it chose."""
    w, chosen = federation.network().state_dict(), []
    for k in range(1, rounds + 1):
        held = join([federation.shards()[i] for i in cohort(k, options["participation"])])
        columns = options["columns"] or len(held.x) // (2 * C)
        seed = int(philox("projection", k).integers(2**62))
        phi = sketch(literal.network(w), held.x, columns, seed=seed).flatten(1)
        f_0, s = literal.outputs(w, held.x), [options["lr"] * time for time in options["times"]]
        found = alphas(phi @ phi.T / C, f_0, held.y, loss, s, options.get("sums", 12))
        j = literal.jacobian(w, held.x)
        tries = [literal.shifted(w, -torch.einsum("ncp,nc->p", j, alpha)) for alpha in found]
        best = int(torch.stack([literal.mean_loss(each, held.x, held.y, loss) for each in tries]).argmin())
        w = tries[best]
        chosen.append(options["times"][best])
    return w, chosen


@pytest.mark.few(3)
@pytest.mark.parametrize("name", OPTIONS)
def test_is_its_evolution_row_by_row(name: str) -> None:
    options = {**FEW, **OPTIONS[name]}
    loss = options.pop("loss", "cross_entropy")
    found = federation.run(sumntk(Task(federation.network(), losses.NAMES[loss]), **options), rounds=3)
    w, chosen = transcript(3, loss, **options)
    assert [int(extra["time"]) for extra in found.extras] == chosen
    assert_close(found.aggregate, w, 1e-8)


def test_a_line_through_the_origin_by_hand() -> None:
    """f = w x, x = 1, y = 2, from w = 0: w(s) = 2 (1 - exp(-s)), so half of the way in a time log 2."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    one = torch.ones(1, 1).double()
    data = [Shard(one, 2 * one, torch.tensor([True])) for _ in range(3)]
    method = sumntk(Task(model, losses.squared), times=(1,), lr=math.log(2))
    for rounds, w in ((1, 1.0), (2, 1.5), (3, 1.75)):
        assert_close(federation.run(method, data, rounds=rounds).aggregate["weight"], w * one)


def evolved(task: Task, s: tuple[float, ...], sums: int, columns: int = 4) -> Tensor:
    """N alpha of all rows at times s."""
    data = join(federation.shards())
    own = primal.features(task, task.w_0, columns, 5, data)
    total, evolution = primal.sums(task.loss, own), primal.PrimalFlow(task.loss, s, sums)
    course, modes, slope, thetas = evolution.start(total), evolution.modes(total), total.b, []
    for j in range(sums):
        course = evolution.advanced(j, modes, course, slope, total)
        if j + 1 < sums:
            thetas.append(course.theta)
            slope = primal.slope(task.loss, course.theta, own)
    return evolution.alpha(course.drift, thetas, own)


def test_many_sums_are_the_exact_flow() -> None:
    task, data, s = federation.task(), join(federation.shards()), (5.0, 40.0)
    phi = sketch(task.model, data.x, 4, seed=5).flatten(1)
    f_0 = task.predict(task.w_0, data.x).detach()
    exact = odeint(
        lambda _, a: residual(f_0 - phi @ (phi.T @ a) / C, data.y, "cross_entropy") / len(phi),
        torch.zeros_like(f_0),
        torch.tensor([0, *s]).double(),
        rtol=1e-10,
        atol=1e-12,
    )[1:]
    few, some, many = (float((evolved(task, s, sums) / len(phi) - exact).norm()) for sums in (12, 100, 200))
    assert few < 0.2 * float(exact.norm())
    assert 0.4 < many / some < 0.6  # a method of order one


def test_the_whole_jacobian_for_a_sketch_gives_the_trace_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = Task(federation.network(), losses.squared), join(federation.shards())
    ends = np.cumsum([part.numel() for part in task.w_0.values()])
    eye = torch.eye(int(ends[-1])).double()
    whole = {
        name: eye[:, end - part.numel() : end].reshape(-1, *part.shape)
        for (name, part), end in zip(task.w_0.items(), ends.tolist(), strict=True)
    }
    monkeypatch.setattr(primal, "projection", lambda *_: whole)
    alpha = evolved(task, (3.0, 50.0), 1)
    rows = linearised_rows(task, task.w_0, data)
    expected, _ = Step("trace", "flow", (3, 50), 1.0).candidates(task, task.w_0, rows, 1.0)
    move = pullback(verified_uses.uses(task.model, task.w_0, data.x), rows.factors, task.w_0, alpha / len(data.x))
    assert_close(trees.map(lambda start, by: start - by, task.w_0, move), expected, 1e-9)


@pytest.mark.few(8)
@pytest.mark.parametrize("name", networks.everything())
def test_features_and_moves_are_products_with_the_jacobian(name: str) -> None:
    example = networks.everything()[name]
    model, x = example.model, example.samples(5)
    data, task = Shard(x, torch.arange(5) % 3, torch.ones(5, dtype=torch.bool)), Task(model)
    j, r = networks.jacobian(model, x), projection(task.w_0, 7, 11)
    alpha = torch.from_numpy(np.random.default_rng(4).normal(size=(2, *j.shape[:2])))
    found = primal.features(task, task.w_0, 7, 11, data)
    assert_close(found.phi, torch.einsum("ncp,kp->nck", j, flat(r)).flatten(1) / j.shape[1] ** 0.5, 1e-9)
    assert_close(flat(primal.moved(task, task.w_0, alpha, data)), torch.einsum("ncp,tnc->tp", j, alpha), 1e-9)


def test_the_projection_is_that_of_the_sketch() -> None:
    """Signs over the root of their number; the same as in `sketch`, which shows in its features."""
    task, data = federation.task(), federation.shards()[5]
    s = sketch(task.model, data.x, 7, seed=11)
    assert_close(primal.features(task, task.w_0, 7, 11, data).phi, s.flatten(1) / C**0.5)
    signs = flat(projection(task.w_0, 7, 11)) * 7**0.5
    assert_close(signs.abs(), torch.ones_like(signs))
    assert not torch.equal(signs, flat(projection(task.w_0, 7, 12)) * 7**0.5)


def flat(tree: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.reshape(len(part), -1) for part in tree.values()], 1)


def test_the_result_does_not_depend_on_the_partition() -> None:
    pooled, options = join(federation.shards()), {**FEW, "participation": 1.0, "sums": 4}
    found = []
    for sizes in (ROWS, (9, 3, 4, 11), (13, 13, 1)):
        data = [Shard(*part) for part in zip(*(field.split(sizes) for field in pooled), strict=True)]
        found.append(federation.run(sumntk(federation.task(), **options), data).aggregate)
    assert_close(found[1], found[0], 1e-10)
    assert_close(found[2], found[0], 1e-10)


def test_all_that_the_server_needs_are_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else adds the messages, two at a time in any order; the server never sees one, but for two counts."""
    expected = federation.run(sumntk(federation.task(), **FEW), rounds=3).aggregate
    rng, gather = np.random.default_rng(3), Fleet.gather

    def tree(fleet: Fleet, x_k: Each[Any], message: str | None = None) -> tuple[Central[Any], Central[int]]:
        left = list(x_k.values)
        while len(left) > 1:
            one, other = (left.pop(int(rng.integers(len(left)))) for _ in range(2))
            left.append(trees.add(one, other))
        return Central(left[0]), Central(0)

    def counts(fleet: Fleet, x_k: Each[Any]) -> Central[list[Any]]:
        assert all(isinstance(x, Size) and all(part.dim() == 0 for part in x) for x in x_k.values)
        return gather(fleet, x_k)

    monkeypatch.setattr(Fleet, "sum", tree)
    monkeypatch.setattr(Fleet, "gather", counts)
    monkeypatch.delattr(Fleet, "mean")
    assert_close(federation.run(sumntk(federation.task(), **FEW), rounds=3).aggregate, expected, 1e-10)


def test_a_client_with_numbers_that_are_not_finite_has_no_part_in_any_sum() -> None:
    options, data = {**FEW, "participation": 1.0}, federation.shards()
    found = federation.run(
        sumntk(federation.task(), **options), [*data[:2], data[2]._replace(x=data[2].x * torch.nan), *data[3:]]
    )
    assert [extra["refused"] for extra in found.extras] == [1, 1]
    expected = federation.run(sumntk(federation.task(), **options), [*data[:2], *data[3:]])
    assert_close(found.aggregate, expected.aggregate)


def test_a_candidate_that_blows_up_loses_and_is_not_refused() -> None:
    """Of two owners, with 4 rows and 6; the last one's rows have no finite loss at all, and count for none."""
    first = countable(Score(torch.tensor([math.nan, 2.0, 3.0, 1.0]), torch.tensor(4)))
    second = countable(Score(torch.tensor([1.0, 4.0, math.inf, 1.0]), torch.tensor(6)))
    third = countable(Score(torch.full((4,), math.nan), torch.tensor(5)))
    assert trees.all_finite([first, second, third])
    found = summed_loss(trees.weighted_sum([first, second, third], [1, 1, 1]))
    assert_close(found, torch.tensor([math.inf, 0.6, math.inf, 0.2]))
    assert not torch.isfinite(summed_loss(third)).any()


def test_every_sum_is_billed() -> None:
    ledger, size, q = federation.run(sumntk(federation.task(), **FEW, sums=5), rounds=1).ledger, 133, 2 * C
    clients = cohort(1, 0.7)
    # rows and outputs; A, five sums, the count; the moves at three times; the losses, the rows that failed, the count
    up = 8 * (2 + q * (q + 1) // 2 + 5 * q * C + 1 + 3 * size + 2 * 3 + 1)
    # columns; w; theta at four knots; the drift at three times; the candidates
    down = 8 * (1 + size + 4 * q * C + 3 * q * C + 3 * size)
    assert [ledger.sent[i] for i in range(K)] == [up if i in clients else 0 for i in range(K)]
    assert ledger.sent[SERVER] == len(clients) * down


def test_a_client_sends_less_than_a_megabyte_with_the_defaults() -> None:
    """784-100-10: 51,360 of A's triangle, twelve times 3,200 and twice 79,510 numbers of four bytes; few besides."""
    rng = np.random.default_rng(1)
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    data = [
        Shard(
            torch.from_numpy(rng.normal(size=(n, 784))).float(),
            torch.from_numpy(rng.integers(0, 10, n)),
            torch.ones(n, dtype=torch.bool),
        )
        for n in (213, 216, 211)  # 640, as few as 32 columns need
    ]
    found = federation.run(sumntk(Task(model)), data, rounds=1)
    assert [extra["columns"] for extra in found.extras] == [32]
    assert [found.ledger.sent[i] for i in range(3)] == [4 * (51_360 + 12 * 3_200 + 2 * 79_510 + 2) + 6 * 8] * 3
    assert found.ledger.sent[0] == 995_176


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        (ROWS, {"participation": 0.4}, "`nodes` must be at least 3 in a sum; got 2. Raise participation or nodes."),
        ((9, 4, 4), {}, "`nodes` must hold at most half of the rows of a sum each; got 9 of 17. Raise"),
        (
            ROWS,
            {"columns": 5},
            "`columns` must be at most rows / (2 outputs), 4 for a round's 27 rows, 3 outputs; got 5",
        ),
        ((2, 2, 1), {}, "`columns` must be at most rows / (2 outputs), 0 for a round's 5 rows, 3 outputs; got 1"),
    ],
)
def test_a_sum_that_would_tell_of_a_row_is_refused(rows: tuple[int, ...], options: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        federation.run(sumntk(federation.task(), **options), federation.shards(rows), graph=None)
    assert str(error.value).startswith(sentence)


def test_exactly_enough_rows_and_half_of_them_are_allowed() -> None:
    found = federation.run(sumntk(federation.task(), columns=3), federation.shards((9, 4, 5)), graph=None)
    assert trees.all_finite(found.aggregate)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"columns": 0}, "`columns` must be at least 1; got 0. Leave it out"),
        ({"sums": 0}, "`sums` must be from 1 to 1000; got 0. Leave it out for 12"),
        ({"sums": 1001}, "`sums` must be from 1 to 1000; got 1001."),
        ({"lr": 1e305}, "`lr` times the last of `times` must be finite; got lr 1e+305. Lower it."),
        ({"sums": 3, "loss": losses.squared}, "`sums` must be left out under the squared loss, which takes one; got 3"),
        ({"loss": losses.custom(nn.functional.smooth_l1_loss)}, "`loss` must state its curvature for a flow; got none"),
        ({"times": (20, 10)}, "`times` must be positive and increasing; got [20, 10]"),
        ({"lr": 0.0}, "`lr` must be positive and finite; got 0.0"),
        ({"participation": 0.0}, "`participation` must be in (0, 1]; got 0.0"),
    ],
)
def test_wrong_settings_are_errors(options: dict[str, Any], sentence: str) -> None:
    task = Task(federation.network(), options.pop("loss", losses.cross_entropy))
    with pytest.raises(ValueError) as error:
        sumntk(task, **options)
    assert str(error.value).startswith(sentence)
