"""Moments equal sums over samples and positions, typed literally; directions equal solves with Kronecker products."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtangent import trees
from fedtangent.shard import Shard
from fedtangent.tangent_steps.blocks import Block, blocks, parameters
from fedtangent.tangent_steps.kfac import Moments, directions, fixed_inputs, moments, rows_of_inputs, rows_of_moments
from fedtangent.tangent_steps.triangles import diagonal, pack, unpack
from fedtangent.tangents.capture.verified_uses import known_uses
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.tangents.literal_moments import EXAMPLES, KRONECKER, ggn, literal, part_of, rows
from tests.tangents.networks import INPUTS, OUTPUTS, Example, Tied, weights
from tests.tiny_federation import assert_close


class Sine(nn.Module):
    """A linear map whose weight is a function of its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(OUTPUTS, INPUTS))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.sin(self.weight).T


@pytest.mark.few(8)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("name", [name for name in KRONECKER if name != "attention to itself"])
def test_moments_are_sums_over_samples_and_positions(name: str, squared: bool) -> None:
    example, loss = KRONECKER[name], losses.squared if squared else losses.cross_entropy
    model, data = example.model, rows(example, squared=squared)
    found, expected = moments(Task(model, loss), weights(model), data), literal(model, data, loss)
    assert found.rows == 5
    assert set(found.outputs) == set(expected)
    for key, pair in expected.items():
        assert_close(unpack(found.inputs[key]), pair.a, 1e-10)
        assert_close(unpack(found.outputs[key]), pair.b, 1e-10)


@pytest.mark.few(10)
@pytest.mark.parametrize("name", EXAMPLES | KRONECKER)
def test_the_gradient_is_that_of_the_summed_loss(name: str) -> None:
    example = (EXAMPLES | KRONECKER)[name]
    model, data = example.model, rows(example)
    found = moments(Task(model), weights(model), data, other="exact").gradient
    expected = torch.autograd.grad(
        losses.cross_entropy.per_sample(model(data.x), data.y).sum(), list(model.parameters())
    )
    assert_close(found, dict(zip(weights(model), expected, strict=True)), 1e-10)


@pytest.mark.few(8)
@pytest.mark.parametrize("name", EXAMPLES)
def test_whole_blocks_are_those_of_the_gauss_newton_matrix(name: str) -> None:
    """Normalisations; and with `exact` scales, embeddings, recurrent layers, derived weights."""
    example = EXAMPLES[name]
    model, data = example.model, rows(example)
    w, whole = weights(model), ggn(model, data, losses.cross_entropy)
    found = moments(Task(model), w, data, other="exact")
    made = blocks(known_uses(model, w, data.x), "exact")
    assert sorted(part for key in made for part in parameters(key)) == sorted(w)
    assert set(found.inputs) == {key for key, block in made.items() if block.kronecker}
    for key, block in made.items():
        if not block.kronecker:
            assert_close(unpack(found.outputs[key])[0], part_of(whole, model, key), 1e-10)


def test_which_blocks_are_whole() -> None:
    def whole(name: str) -> set[str]:
        model, x = EXAMPLES[name].model, EXAMPLES[name].samples(1)
        return {
            key for key, block in blocks(known_uses(model, weights(model), x), "exact").items() if not block.kronecker
        }

    assert whole("convolutions") == {"1.weight,1.bias", "4.weight,4.bias"}  # group norm, batch norm in eval mode
    assert whole("scales") == {"1.weight", "2.weight", "4.weight,4.bias"}
    assert whole("tied") == {"upper.weight", "size"}  # two uses of the first are products with it and its transpose
    assert whole("tied to the embedding") == {"words.weight", "head.bias"}
    norms = {f"encoder.layers.{i}.norm{j}.weight,encoder.layers.{i}.norm{j}.bias" for i in (0, 1) for j in (1, 2)}
    assert whole("transformer") == {"places"} | norms


def test_arguments_by_keyword_are_found() -> None:
    class Named(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, bias=self.bias, weight=self.weight)

    model = Named(INPUTS, OUTPUTS).double()
    found = blocks(known_uses(model, weights(model), EXAMPLES["one layer"].samples(1)))
    assert found == {"weight,bias": Block(("",), True, True)}


class Words(nn.Module):
    """A look-up of two words, the first without training, and a layer on what is read, with unequal weights."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        read = self.words(x)
        return self.head(torch.tanh(read[:, 0] + 2 * read[:, 1]))


def test_of_a_look_up_the_moments_are_those_of_the_matrix_of_ones() -> None:
    torch.manual_seed(3)
    model, x = Words().double(), torch.tensor([[1, 2], [3, 1], [1, 1], [0, 6], [5, 0]])
    data = Shard(x, torch.tensor([0, 2, 1, 1, 0]), torch.tensor([True, True, True, True, False]))
    task, w = Task(model), weights(model)
    found = moments(task, w, data)
    key = "words.weight^T"
    u = F.one_hot(x[:4], 7).double()
    u[..., 0] = 0
    assert torch.equal(found.inputs[key], torch.einsum("nsi,nsi->i", u, u))
    total = torch.zeros(4, 4).double()
    for n in range(4):
        j = torch.func.jacrev(lambda z: model.head(torch.tanh(z[0] + 2 * z[1])))(model.words.weight[x[n]])
        p = torch.softmax(model(x[n : n + 1])[0], 0)
        for s in range(2):
            if x[n, s] != 0:
                total += j[:, s].T @ (torch.diag(p) - torch.outer(p, p)) @ j[:, s] / 2
    assert_close(unpack(found.outputs[key])[0], total.detach(), 1e-10)
    assert_close(fixed_inputs(task, data)[0], {key: found.inputs[key]})
    step = directions(found, {}, [0.3])["words.weight"][0]
    a, b = found.inputs[key] / 4, unpack(found.outputs[key])[0] / 4
    right, left = a / a.mean() + 0.3**0.5, b / b.diagonal().mean() + 0.3**0.5 * torch.eye(4).double()
    expected = found.gradient["words.weight"] / 4 / right[:, None] / a.mean()
    assert_close(step, torch.linalg.solve(left, expected.T).T / b.diagonal().mean(), 1e-10)


@pytest.mark.parametrize("name", ["one layer", "gated", "deep", "one output"])
def test_of_one_sample_the_product_is_the_gauss_newton_block(name: str) -> None:
    example = KRONECKER[name]
    model, data = example.model, rows(example, 1)
    whole = ggn(model, data, losses.cross_entropy)
    found = moments(Task(model), weights(model), data)
    for key in found.outputs:
        a, b = unpack(found.inputs[key])[0].numpy(), unpack(found.outputs[key])[0].numpy()
        order = [part.reshape(len(b), -1) for part in torch.arange(len(b) * len(a)).split(len(b) * (len(a) - 1))]
        place = torch.cat(order, 1).flatten()  # weights first and biases behind them, a row each
        block = part_of(whole, model, key)[place][:, place]
        assert_close(torch.from_numpy(np.kron(b, a)), block, 1e-10)


def test_by_hand() -> None:
    """f = 0, so p = (1, 1) / 2; x = 3 and y = 0."""
    model = nn.Linear(1, 2).double()
    w = {"weight": torch.zeros(2, 1).double(), "bias": torch.zeros(2).double()}
    x, y = torch.tensor([[3.0]]).double(), torch.tensor([0])
    found = moments(Task(model), w, Shard(x, y, torch.tensor([True])))
    assert {name: part.flatten().tolist() for name, part in found.gradient.items()} == {
        "weight": [-1.5, 1.5],
        "bias": [-0.5, 0.5],
    }
    assert_close(found.inputs, {"weight,bias": torch.tensor([[9.0, 3, 1]]).double()})
    assert_close(found.outputs, {"weight,bias": torch.tensor([[0.25, -0.25, 0.25]]).double()})


def test_below_a_last_layer_of_zeros_there_is_no_step() -> None:
    model = federation.network()
    nn.init.zeros_(model[2].weight)
    w, (data, *_) = weights(model), federation.shards()
    found = directions(moments(Task(model), w, data, weight_decay=0.1), {}, [0.1, 0.3])
    assert not found["0.weight"].any()
    assert not found["0.bias"].any()
    assert found["2.weight"].any()


def test_padded_rows_change_nothing_where_zero_has_no_slope() -> None:
    model = federation.Divided()
    task, w, (data, *_) = Task(model), weights(model), federation.shards()
    padded = Shard(*(torch.cat([part, torch.zeros_like(part[:2])]) for part in data))
    assert_close(moments(task, w, padded, other="exact"), moments(task, w, data, other="exact"), 1e-12)


@pytest.mark.parametrize("name", ["gated", "deep", "conv2d", "convolutions", "transformer", "tied", "recurrent"])
def test_padded_rows_change_nothing_and_a_sum_of_moments_is_moments(name: str) -> None:
    example = (EXAMPLES | KRONECKER)[name]
    model, data = example.model, rows(example)
    task, w = Task(model), weights(model)
    garbage = Shard(*(part[:2] for part in rows(example, 4, seed=9)))
    padded = Shard(*(torch.cat(parts) for parts in zip(data, garbage, strict=True)))
    padded = padded._replace(real=torch.tensor([True] * 5 + [False] * 2))
    whole = moments(task, w, data, other="exact")
    assert_close(moments(task, w, padded, other="exact"), whole, 1e-12)
    first, second = (
        moments(task, w, Shard(*(part[cut] for part in data)), other="exact") for cut in (slice(2), slice(2, 5))
    )
    assert_close(trees.add(first, second), whole, 1e-12)


FIXED = {
    "gated": {"0.weight,0.bias"},
    "one layer": {"weight,bias"},
    "skip": {"lower.weight,lower.bias"},
    "a map used twice": {"lower.weight,lower.bias"},
    "tokens": {"1.weight,1.bias"},
    "conv1d": {"0.weight,0.bias"},
    "conv2d": {"0.weight,0.bias"},
    "frames": {"lower.weight"},
    "convolutions": {"0.weight,0.bias"},
    "transformer": {"words.weight^T"},
    "attention to itself": {"attention.in_proj_weight,attention.in_proj_bias"},
    "derived weight": set(),
    "recurrent": set(),
}


@pytest.mark.parametrize("name", FIXED)
def test_which_inputs_are_the_datas_own(name: str) -> None:
    example = (EXAMPLES | KRONECKER)[name]
    model, data = example.model, rows(example)
    w = weights(model)
    found = known_uses(model, w, data.x)
    made = blocks(found, "exact")
    assert {key for key, block in made.items() if block.fixed} == FIXED[name]
    if name == "transformer":
        assert "words." in found.fixed
    task, elsewhere = Task(model), {part: 1.7 * value + 0.3 for part, value in w.items()}
    whole, moving = (moments(task, w, data, other="exact", inputs=which) for which in ("all", "moving"))  # type: ignore[arg-type]
    assert set(moving.inputs) == {key for key, block in made.items() if block.kronecker and not block.fixed}
    assert_close(moving._replace(inputs={}), whole._replace(inputs={}), 0)
    fixed, count = fixed_inputs(task, data, other="exact")
    assert set(fixed) == FIXED[name]
    assert int(count) == len(data.x)
    assert_close(fixed | moving.inputs, whole.inputs, 0)
    moved = moments(task, elsewhere, data, other="exact").inputs
    assert {key for key, a in whole.inputs.items() if torch.equal(a, moved[key])} == FIXED[name]


class Writes(nn.Module):
    """Puts a layer's results into a part of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(INPUTS, 4), nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        z = x.new_zeros(len(x), 6)
        z[:, 1:5] = self.lower(x)
        return self.upper(torch.tanh(z))


def test_a_tensor_that_is_written_into_is_not_the_datas_own() -> None:
    model = Writes().double()
    assert known_uses(model, weights(model), EXAMPLES["one layer"].samples(1)).fixed == {"lower."}


def solved(key: str, total: Moments, a: dict[str, Tensor], damping: float) -> np.ndarray:
    """Of a block, group by group, with explicit Kronecker products; flat, weights first."""
    n, names = float(total.rows), key.split(",")
    b = unpack(total.outputs[key]).numpy() / n
    if key not in a and key not in total.inputs:
        g, q = np.concatenate([total.gradient[name].flatten() for name in names]) / n, b[0]
        mean = np.trace(q) / len(q)
        return np.linalg.solve(q / mean + damping * np.eye(len(q)), g) / mean  # type: ignore[no-any-return]
    inputs = unpack(a[key]).numpy() if key in a else unpack(total.inputs[key]).numpy() / n
    g = total.gradient[names[0]].reshape(len(b), b.shape[1], -1).numpy() / n
    if len(names) > 1:
        g = np.concatenate([g, total.gradient[names[1]].reshape(len(b), -1, 1).numpy() / n], 2)
    found = []
    for one, out, into in zip(g, b, inputs, strict=True):
        sides = [side / (np.trace(side) / len(side)) + np.sqrt(damping) * np.eye(len(side)) for side in (out, into)]
        scale = np.trace(out) / len(out) * np.trace(into) / len(into)
        found.append(np.linalg.solve(scale * np.kron(*sides), one.flatten()).reshape(one.shape))
    whole = np.stack(found)
    parts = [whole] if len(names) == 1 else [whole[..., :-1], whole[..., -1]]
    return np.concatenate([part.flatten() for part in parts])


@pytest.mark.parametrize("name", ["gated", "deep", "no bias", "conv1d", "conv2d", "convolutions", "scales"])
@pytest.mark.parametrize("cached", [False, True])
def test_directions_solve_with_damped_kronecker_products(name: str, cached: bool) -> None:
    example, dampings = (EXAMPLES | KRONECKER)[name], (0.03, 7.0)
    model, data = example.model, rows(example)
    total = moments(Task(model), weights(model), data, other="exact", inputs="moving" if cached else "all")
    fixed, count = fixed_inputs(Task(model), rows(example, 9, seed=3), other="exact")
    assert int(count) == 9
    a = {key: part / 9 for key, part in fixed.items()} if cached else {}
    found = directions(total, a, dampings)
    assert list(found) == list(weights(model))
    for key in total.outputs:
        for i, damping in enumerate(dampings):
            flat = torch.cat([found[part][i].flatten() for part in key.split(",")])
            assert_close(flat, torch.from_numpy(solved(key, total, a, damping)), 1e-10)


def test_without_damping_the_direction_of_one_block_is_newtons() -> None:
    """The squared loss of a linear map: A (x) 1 / C is its Hessian."""
    data = rows(EXAMPLES["one layer"], 30, squared=True)
    model = EXAMPLES["one layer"].model
    w = weights(model)
    found = directions(moments(Task(model, losses.squared), w, data), {}, (1e-24,))
    x = torch.cat([data.x, torch.ones(30, 1).double()], 1)
    best = torch.linalg.lstsq(x, data.y).solution.T
    assert_close(w["weight"] - found["weight"][0], best[:, :-1], 1e-9)
    assert_close(w["bias"] - found["bias"][0], best[:, -1], 1e-9)


def test_a_factor_that_is_not_positive_semi_definite_gives_nan() -> None:
    model, data = KRONECKER["deep"].model, rows(KRONECKER["deep"])
    total = moments(Task(model), weights(model), data)
    for side in ("inputs", "outputs"):
        packed = getattr(total, side)["1.weight,1.bias"]
        values, vectors = torch.linalg.eigh(unpack(packed)[0])
        values[0] = -0.5 * values[1:].mean()
        bent = {**getattr(total, side), "1.weight,1.bias": pack((vectors * values @ vectors.T)[None])}
        found = directions(total._replace(**{side: bent}), {}, (0.1, 2.0))
        assert all(bool(part[0].isnan().all()) == name.startswith("1.") for name, part in found.items())
        assert all(bool(part[1].isfinite().all()) for part in found.values())  # the damping outweighs it


def test_packing() -> None:
    assert pack(torch.tensor([[[1, 2, 3], [2, 4, 5], [3, 5, 6]]])).tolist() == [[1, 2, 3, 4, 5, 6]]
    for size in range(1, 40):
        matrix = torch.randn(2, size, size, generator=torch.Generator().manual_seed(size))
        assert_close(unpack(pack(matrix + matrix.mT)), matrix + matrix.mT, 0)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            Tied(),
            {},
            r"^`model` must have Kronecker factors for every parameter; got none for '(size|upper.weight)', used by "
            r"\w+\. Choose other='exact' for whole blocks of such parameters, or freeze it\.$",
        ),
        (
            Sine(),
            {},
            r"^`model` must .* got none for 'weight', used by sin\. Choose .*\.$",
        ),
        (
            nn.Sequential(nn.Linear(INPUTS, 4100), nn.LayerNorm(4100), nn.Linear(4100, OUTPUTS)),
            {},
            r"^`model` must keep whole blocks within 8192 parameters; got 8200 in '1.weight'\. Freeze it, or .*\.$",
        ),
        (
            nn.Linear(INPUTS, OUTPUTS),
            {"other": "drop"},
            r"^`other` must be 'refuse' or 'exact'; got 'drop'\. Choose .*",
        ),
    ],
)
def test_what_has_no_factors_is_an_error(model: nn.Module, options: dict[str, Any], message: str) -> None:
    model, data = model.double(), rows(EXAMPLES["one layer"]._replace(model=model.double()))
    with pytest.raises(ValueError, match=message):
        moments(Task(model), weights(model), data, **options)


def test_a_frozen_parameter_needs_no_factors() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, OUTPUTS), nn.PReLU()).double()
    model[1].weight.requires_grad_(False)
    found = moments(Task(model), Task(model).w_0, rows(Example(model, (INPUTS,))))
    assert set(found.outputs) == {"0.weight,0.bias"}


def test_moments_with_a_negative_diagonal_count_for_no_rows() -> None:
    task, data = federation.task(), federation.shards()[4]
    found = moments(task, task.w_0, data)
    assert int(rows_of_moments(found)) == 5
    key = next(iter(found.outputs))
    assert torch.equal(diagonal(found.outputs[key]), unpack(found.outputs[key]).diagonal(dim1=-2, dim2=-1))
    wrong = found.outputs[key].clone()
    wrong[0, 0] = -1e-3  # the first of a diagonal
    assert int(rows_of_moments(found._replace(outputs={**found.outputs, key: wrong}))) == 0
    inputs = fixed_inputs(task, data)
    assert int(rows_of_inputs(inputs)) == 5
    assert int(rows_of_inputs((trees.scale(inputs[0], -1.0), inputs[1]))) == 0
    assert int(rows_of_inputs(({}, inputs[1]))) == 5
    assert int(rows_of_inputs(({"look-up": torch.tensor([0.0, 2.0])}, inputs[1]))) == 5
