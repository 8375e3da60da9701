"""What models take and give: several inputs, picked outputs; and one sentence for all that is wrong."""

import warnings
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedtangent.tangents import jacobian, kernel, layer_kernels, linearize, own_kernel, plan, sketch
from tests.tangents.capture.test_derivatives import close
from tests.tangents.unusual import OldReversal, by_rows, flat, like

IDS = torch.randint(0, 7, (5, 6), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(6) < torch.tensor([6, 3, 1, 5, 4])[:, None]).long()
TIMES = torch.randn(5, generator=torch.Generator().manual_seed(1)).double()


@dataclass
class Result:
    loss: Tensor | None
    logits: Tensor
    hidden: tuple[Tensor, ...]


class Tagger(nn.Module):
    """Takes ids, a mask and one number a sample, as a model of texts does; gives what `form` makes of it."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any] = lambda f, z: f) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.words, self.lower, self.upper = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 3)
        self.form = form

    def forward(self, input_ids: Tensor, attention_mask: Tensor, times: Tensor) -> Any:
        z = self.lower(self.words(input_ids)) * times[:, None, None]
        z = (z.tanh() * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return self.form(self.upper(z), z)


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Any, Callable[[Any], Tensor]]] = {
    "dict": (lambda f, z: {"hidden": z[:, None], "logits": f}, "logits", lambda r: r["logits"]),
    "dataclass": (lambda f, z: Result(None, f, (z,)), "logits", lambda r: r.logits),
    "tuple": (lambda f, z: (z, f), 1, lambda r: r[1]),
    "function": (lambda f, z: Result(None, f, (z,)), lambda r: r.hidden[0], lambda r: r.hidden[0]),
    "three axes": (lambda f, z: f[:, :, None] * z[:, None], lambda f: f.flatten(1), lambda f: f.flatten(1)),
    "one output": (lambda f, z: f[:, 1], None, lambda f: f[:, None]),
    "wider numbers": (lambda f, z: f.to(torch.complex128), lambda f: f.real, lambda f: f.real),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", FORMS)
def test_inputs_and_outputs_of_every_form(name: str) -> None:
    form, outputs, pick = FORMS[name]
    model = Tagger(form).double()
    x = {"attention_mask": MASK, "times": TIMES, "input_ids": IDS}
    literal = by_rows(model, IDS, MASK, TIMES, pick=pick)
    w = dict(model.named_parameters())
    reached = torch.cat([torch.full((p.numel(),), name != "function" or "upper" not in key) for key, p in w.items()])
    w = {key: p for key, p in w.items() if name != "function" or "upper" not in key}
    literal = literal[..., reached]
    k = torch.einsum("ncp,mdp->nmcd", literal, literal)
    for given in (x, UserDict(x), (IDS, MASK, TIMES), {key: part.numpy() for key, part in x.items()}):
        assert close(kernel(model, given, outputs=outputs, w=w), k)
    few = {key: part[:2] for key, part in x.items()}
    assert close(kernel(model, few, x, outputs=outputs, w=w, memory_bytes=2**17), k[:2])
    assert plan(model, few, x, outputs=outputs, w=w).samples == (2, 5)
    j = jacobian(model, x, outputs=outputs, w=w, memory_bytes=1)
    alpha, v = like({"f": j.f}, 3)["f"], like(j.w, 4)
    assert close(j.dense(), literal)
    assert close(j.times(alpha), torch.einsum("nmcd,md->nc", k, alpha))
    assert sketch(model, x, 9, kind="structured", outputs=outputs, w=w).shape == (*literal.shape[:2], 9)
    f_lin = linearize(model, w, outputs=outputs)
    moved = {key: part + v[key] for key, part in f_lin.w_0.items()}
    assert close(f_lin(moved, x), j.f + literal @ flat(v))
    assert f_lin.gap(moved, (IDS, MASK, TIMES)).absolute > 0


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("middle", [lambda z: torch.fft.fft(z, dim=1).abs().log1p(), OldReversal.apply])
def test_whole_models_of_ids_and_of_several_inputs(middle: Callable[[Tensor], Tensor], several: bool) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.words, self.upper = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
            z = self.words(ids) if mask is None else self.words(ids) * mask[..., None]
            f: Tensor = self.upper(middle(z).sum(1)) + torch.fft.fft(self.upper.bias).abs()
            return f

    model, x = Words().double(), (IDS, MASK) if several else (IDS,)
    given, literal = x if several else IDS, by_rows(model, *x)
    assert any(line.what.startswith("the whole model") for line in plan(model, given).lines)
    k = torch.einsum("ncp,mdp->nmcd", literal, literal)
    assert close(kernel(model, given), k)
    assert close(kernel(model, given, kind="trace"), torch.einsum("nmcc->nm", k) / 3)
    j = jacobian(model, given)
    alpha = like({"f": j.f}, 3)["f"]
    assert close(j.dense(), literal)
    assert close(j.times(alpha), torch.einsum("nmcd,md->nc", k, alpha))


def test_plain_numbers_of_a_sample_are_its_samples() -> None:
    model = nn.Embedding(7, 3).double()
    assert close(kernel(model, IDS[0]), (IDS[0][:, None] == IDS[0])[..., None, None] * torch.eye(3).double())


@pytest.mark.parametrize(
    ("form", "outputs", "error", "message"),
    [
        (
            lambda f, z: {"z": z[:, None], "logits": f},
            None,
            TypeError,
            "got dict of z, logits. Say which part holds the outputs, as with outputs='logits'.",
        ),
        (lambda f, z: (z.sum(), f), None, TypeError, "got tuple. Say which part holds the outputs, as with outputs=1."),
        (
            lambda f, z: Result(None, f, ()),
            None,
            TypeError,
            "got Result of loss, logits, hidden. Say which part holds the outputs, as with outputs='logits'.",
        ),
        (lambda f, z: None, None, TypeError, "got NoneType. Say which part holds the outputs, "),
        (
            lambda f, z: {"logits": f},
            "scores",
            TypeError,
            "`outputs` must name a part of what the model returns, dict of logits; got 'scores'. Name another.",
        ),
        (lambda f, z: (f,), 3, TypeError, "`outputs` must name a part of what the model returns, tuple; got 3. "),
        (lambda f, z: f, 0, TypeError, "`outputs` must name a part of what the model returns, Tensor; got 0. "),
        (lambda f, z: f, lambda f: None, TypeError, "`outputs` must pick a tensor; got NoneType for "),
        (
            lambda f, z: f,
            2.5,
            TypeError,
            "`outputs` must be a name, an index or a function of what the model returns; got float. ",
        ),
        (
            lambda f, z: f.argmax(1),
            None,
            TypeError,
            "`model` must return real numbers in floating point; got torch.int64. ",
        ),
        (lambda f, z: f + 0j, None, TypeError, "got torch.complex128. Take torch.view_as_real(f).flatten(1)."),
        (
            lambda f, z: f[:, None],
            None,
            ValueError,
            "`model` must return outputs (n, C); got shape (1, 1, 3). Flatten its outputs: ",
        ),
        (lambda f, z: f.T, None, ValueError, "`model` must return outputs (n, C) of n samples; got (3, 1) of one. "),
    ],
)
def test_results_that_are_no_outputs(form: Any, outputs: Any, error: type[Exception], message: str) -> None:
    model = Tagger(form).double()
    for function in (kernel, plan, jacobian, lambda *x, **given: sketch(*x, 3, **given)):
        with pytest.raises(error) as found:
            function(model, (IDS, MASK, TIMES), outputs=outputs)
        assert message in str(found.value)


DATA = TensorDataset(torch.randn(6, 4), torch.zeros(6))


class Frame:
    """As a data frame of pandas."""

    def to_numpy(self) -> np.ndarray:
        return np.ones((3, 4))

    __array__ = to_numpy


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            None,
            TypeError,
            "`x1` must be a tensor, or a dict or tuple of tensors for a model of several arguments; got None",
        ),
        ([torch.ones(4)], TypeError, " as tuple(x)."),
        (
            DataLoader(DATA),
            TypeError,
            "; got DataLoader. Join its batches, torch.cat([x for x, y in loader]), or let kernel stream",
        ),
        (DATA, TypeError, "; got TensorDataset. Stack its samples: torch.stack("),
        (3.5, TypeError, "`x1` must be a tensor; got float. Convert it: torch.as_tensor"),
        (np.array(["a"]), TypeError, "`x1` must be a tensor; got an array of <U1. "),
        (np.ones((3, 4), object), TypeError, "of object. Convert it: torch.as_tensor(x1.astype('float32'))."),
        (Frame(), TypeError, "; got Frame. Convert it: torch.as_tensor(x1.to_numpy())."),
        (
            np.ma.masked_greater(np.arange(8.0).reshape(2, 4), 6),
            ValueError,
            "got a masked array. Fill it: x1.filled(0).",
        ),
        (
            torch.ones(0, 4),
            ValueError,
            "`x1` must hold samples along its first axis; got shape (0, 4). Give one at the least.",
        ),
        ({"ids": [1, 2]}, TypeError, "`x1['ids']` must be a tensor; got list. "),
        (
            torch.eye(4).to_sparse(),
            TypeError,
            "`x1` must be a dense tensor; got one of torch.sparse_coo. Convert it: x1.to_dense().",
        ),
        (torch.ones(3, 4, device="meta"), TypeError, "`x1` must hold numbers; got a tensor on the device meta. "),
        (torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged), TypeError, ". Convert it: x1.to_"),
        (torch.ones(4), ValueError, "`x1` must hold samples along its first axis; got shape (4,). "),
        ({}, ValueError, "`x1` must hold tensors with the samples along their first axes; got {}. "),
        ({"a": torch.ones(3, 4), "b": torch.ones(2)}, ValueError, "; got {'a': (3, 4), 'b': (2,)}. Leave out "),
        ((torch.ones(3, 4), torch.tensor(1.0)), ValueError, "; got ((3, 4), ()). "),
        ((torch.ones(3, 4) / 0 * 0,), ValueError, "`x1[0]` must be finite; got NaN or infinity. "),
        ((torch.ones(3, 4),) * 2, ValueError, " takes 2 positional"),
        (torch.ones(3, 5), ValueError, " cannot be multiplied (1x5 and 4x2). "),
        (
            torch.ones(3, 4).double(),
            ValueError,
            "`x1` must be torch.float32 for this model; got torch.float64. Convert it: x1.to(torch.float32).",
        ),
        ((torch.ones(3, 4).half(),), ValueError, "`x1[0]` must be torch.float32 for this model; got torch.float16. "),
        (torch.ones(3, 4).int(), ValueError, "`x1` must be torch.float32 for this model; got torch.int32. "),
    ],
)
def test_samples_that_cannot_be_taken(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as found:
        kernel(nn.Linear(4, 2), x)
    assert message in str(found.value)


@pytest.mark.parametrize("x2", [torch.ones(2, 4).double(), torch.ones(2, 4).int()])
def test_other_samples_of_another_type(x2: Tensor) -> None:
    message = rf"^`x2` must be torch\.float32, as x1 is; got {x2.dtype}\. Convert it: x2\.to\(torch\.float32\)\."
    with pytest.raises(ValueError, match=message):
        kernel(nn.Linear(4, 2), torch.ones(3, 4), x2)
    words = nn.EmbeddingBag(7, 2)
    assert kernel(words, IDS, IDS.int()).shape == (5, 5, 2, 2)  # ids of any width are the same ids


def test_arrays_in_another_order_of_bytes() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    model = nn.Linear(4, 2)
    assert torch.equal(kernel(model, x.astype(">f4")), kernel(model, x))


@pytest.mark.parametrize("memory", ["1GiB", None, float("nan")])
def test_memory_is_a_number(memory: Any) -> None:
    for call in (kernel, plan, jacobian, layer_kernels, own_kernel):
        with pytest.raises(
            TypeError, match=r"^`memory_bytes` must be a number; got .*\. Give bytes, such as 2\*\*30\."
        ):
            call(nn.Linear(4, 2), torch.ones(3, 4), memory_bytes=memory)


def test_weights_that_hold_no_numbers() -> None:
    model, x = nn.Linear(4, 2), torch.ones(3, 4)
    with pytest.raises(TypeError, match=r"^`w` must hold tensors; got ndarray at 'bias'\. "):
        kernel(model, x, w={"bias": np.ones(2)})  # type: ignore[dict-item]
    empty = nn.Linear(4, 2)
    empty.register_buffer("shift", torch.ones(2, device="meta"))
    with pytest.raises(ValueError, match=r"^`model` must hold numbers; got 'shift' on the device meta\. "):
        kernel(empty, torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"^`model` must hold numbers; got 'weight' on the device meta\. "):
        kernel(model.to("meta"), x)


def test_ids_in_floating_point() -> None:
    with pytest.raises(
        ValueError, match=r"^`x` must be torch\.int64 for this model; got torch\.float32\. Convert it: "
    ):
        jacobian(nn.Sequential(nn.Embedding(5, 3), nn.Flatten()), torch.ones(3, 2))


def test_a_models_own_error_is_shown_as_it_is() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(7, 2))  # 8 meet 7
    with pytest.raises(ValueError, match=r"got RuntimeError for one sample of \(2,\): .*\(1x8 and 7x2\)") as error:
        kernel(model, torch.randint(0, 9, (3, 2)))
    assert isinstance(error.value.__cause__, RuntimeError)
    assert "Convert" not in str(error.value)


class One(nn.Linear):
    """Takes one sample at a time, without saying so."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(self.in_features))[None]  # type: ignore[no-any-return]


def test_a_model_of_one_sample_at_a_time() -> None:
    with pytest.raises(
        ValueError, match=r"^`model` must run on several samples at once; got RuntimeError for 3 of \(4,\)"
    ):
        kernel(One(4, 2), torch.ones(5, 4))


def test_two_kinds_of_samples() -> None:
    with pytest.raises(
        ValueError, match=r"^`x1` and `x2` must hold samples of one shape; got \{'a': \(4,\)\} and \(4,\)\. "
    ):
        kernel(nn.Linear(4, 2), {"a": torch.ones(3, 4)}, torch.ones(2, 4))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(x).float()


class Promoted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x.double() * self.scale


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Half(), "`model` must compute in the type of its weights, torch.float32; got torch.bfloat16 from linear. "),
        (Promoted(), "; got torch.float64 from mul. "),
        (
            nn.Linear(4, 2).bfloat16(),
            "all in torch.float32 or all in torch.float64; got torch.bfloat16 at 'weight'. Convert it: model.float()",
        ),
        (
            nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2).double()),
            "; got torch.float64 at '1.weight' beside torch.float32. Convert it: model.float()",
        ),
        (nn.Linear(4, 2, dtype=torch.complex64), "; got torch.complex64 at 'weight'. Keep torch.view_as_real"),
        (nn.LazyLinear(2), "`model` must have initialised parameters; got 'weight' without a shape. "),
    ],
)
def test_types_of_numbers(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError) as found:
        kernel(model, torch.ones(3, 4))
    assert message in str(found.value)


def test_parts_that_are_not_trained_may_have_other_types() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lower, self.upper = nn.Linear(4, 3).double().requires_grad_(False), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.upper(self.lower(x.double()).float().tanh()).double()

    model, x = Frozen(), torch.randn(3, 4)
    literal = by_rows(model, x)
    found = kernel(model, x)
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.einsum("ncp,mdp->nmcd", literal, literal).float(), rtol=1e-4)
    model.lower = nn.Linear(4, 3).bfloat16().requires_grad_(False)
    model.forward = lambda x: model.upper(model.lower(x.bfloat16()).float())  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"; got torch\.bfloat16 from bfloat16\. "):
        kernel(model, x)


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"^`model` must be an nn\.Module; got function\. Wrap"):
        kernel(lambda x: x, torch.ones(3, 4))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of PyTorch call it deprecated
        traced = torch.jit.trace(nn.Linear(4, 2), torch.ones(1, 4))
    with pytest.raises(TypeError, match=r"^`model` must be made of Python modules; got a scripted one at '0'\. "):
        kernel(nn.Sequential(traced), torch.ones(3, 4))
    with pytest.raises(TypeError, match=r"^`model` must be a module on one device; got DataParallel at ''\. "):
        kernel(nn.DataParallel(nn.Linear(4, 2)), torch.ones(3, 4))
    with pytest.raises(TypeError, match=r"^`w` must be a dict of parameters; got list\. "):
        jacobian(nn.Linear(4, 2), torch.ones(3, 4), w=[torch.ones(2)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        kernel,
        plan,
        jacobian,
        lambda model, x: sketch(model, x, 3),
        lambda model, x: linearize(model)(dict(model.named_parameters()), x),
    ],
)
def test_chance_and_company(function: Any) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.layer(x))

    x = torch.randn(5, 4)
    with pytest.raises(
        ValueError,
        match=r"^`model` must be deterministic; got outputs that change with the random seed at '0' \(Noisy\)\. ",
    ):
        function(nn.Sequential(Noisy(), nn.Linear(4, 2)).eval(), x)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    with pytest.raises(ValueError, match=r"^`model` must treat every sample on its own; got outputs that change with "):
        function(nn.Sequential(nn.Linear(4, 2), Mean()), x)


def test_samples_are_not_written_to() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)).double()
    x = torch.randn(5, 4).double()
    before, literal = x.clone(), by_rows(model, x)
    j = jacobian(model, x)
    v = like(j.w, 1)
    assert close(j.jvp(v), literal @ flat(v))
    assert close(linearize(model)(j.w, x), j.f)
    assert torch.equal(x, before)
