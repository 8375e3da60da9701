"""Partial updates typed literally: torch's own gradients, required of the active parameters alone, under every host."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, softplus

from tests import tiny_federation as federation
from tests.methods.literal_server import K, Weights, drawn, weights_0
from tests.methods.literal_sgd import train
from tests.tiny_federation import ROWS, philox

HOSTS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"mu": 0.3},
    "moon": {"mu": 0.7, "temperature": 0.6},
    "scaffold": {"server_lr": 0.8},
    "fednova": {},
    "feddyn": {"penalty": 0.2},
    "fedopt": {"optimizer": "momentum", "beta1": 0.6, "server_lr": 0.7},
}


class Literal:
    """A federation that trains and averages some parameters a round, by name."""

    def __init__(self, host: str, own: dict[str, Any], participation: float, local: dict[str, Any]) -> None:
        self.host, self.own, self.participation, self.local = host, own, participation, local
        zero = {name: torch.zeros_like(w) for name, w in weights_0().items()}
        self.w, self.c, self.h, self.v = weights_0(), dict(zero), dict(zero), dict(zero)
        self.c_k, self.g_k = [dict(zero) for _ in range(K)], [dict(zero) for _ in range(K)]
        self.last_k, self.met = [weights_0() for _ in range(K)], set[tuple[int, str]]()
        self.version = Counter(dict.fromkeys(self.w, 1))  # of what the server has, and of what each client has of it
        self.copy_k: list[Counter[str]] = [Counter() for _ in range(K)]
        self.up, self.down = [0] * K, [0] * K

    def round(self, t: int, active: Sequence[str]) -> None:
        clients = drawn(t, self.participation)
        for i in clients:
            self.bill(i, active)
        before = {name: w.clone() for name, w in self.w.items()}
        z = {i: self.client(i, t, active) for i in clients}
        for name in active:
            self.server(name, {i: part[name] for i, part in z.items()}, before[name])
            self.version[name] += 1

    def bill(self, i: int, active: Sequence[str]) -> None:
        size = {name: 8 * w.numel() for name, w in self.w.items()}
        self.down[i] += sum(size[name] for name in self.w if self.copy_k[i][name] != self.version[name])
        self.copy_k[i] = Counter(self.version)
        twice = 2 if self.host == "scaffold" else 1
        self.down[i] += (twice - 1) * sum(size[name] for name in active)
        numbers = {"scaffold": 0, "feddyn": 0, "fednova": 2}.get(self.host, 1)  # n_k, and a_k of FedNova
        self.up[i] += twice * sum(size[name] for name in active) + 8 * numbers

    def client(self, i: int, t: int, active: Sequence[str]) -> Weights:
        model, (x, y, _) = federation.network(), federation.shards()[i]
        model.load_state_dict(self.w)
        for name, p in model.named_parameters():
            p.requires_grad_(name in active)
        w = {name: p.clone() for name, p in self.w.items()}
        last = {**w, **{name: self.last_k[i][name] for name in active}}
        local = {"momentum": 0.0, **self.local}

        def term(model: Any, x: Tensor) -> Tensor:
            p = {name: part for name, part in model.named_parameters() if name in active}
            zero = torch.zeros((), dtype=torch.float64)
            if self.host == "fedprox":
                return self.own["mu"] / 2 * sum(((p[name] - w[name]) ** 2).sum() for name in p)
            if self.host == "scaffold":
                return sum(((self.c[name] - self.c_k[i][name]) * p[name]).sum() for name in p)  # type: ignore[return-value]
            if self.host == "feddyn":
                pull = self.own["penalty"] / 2 * sum(((p[name] - w[name]) ** 2).sum() for name in p)
                return pull - sum((self.g_k[i][name] * p[name]).sum() for name in p)
            if self.host == "moon" and all((i, name) in self.met for name in active):
                now, server, mine = (features(dict(at), x) for at in (model.named_parameters(), w, last))
                away = cosine_similarity(now, mine) - cosine_similarity(now, server)
                return self.own["mu"] * softplus(away / self.own["temperature"]).mean()
            return zero

        train(model, x, y, philox("batches", t, i), **local, term=term)
        self.met.update((i, name) for name in active)
        z = {name: p.detach() for name, p in model.named_parameters() if name in active}
        self.last_k[i].update(z)
        return z

    def server(self, name: str, z: dict[int, Tensor], w: Tensor) -> None:
        n = {i: ROWS[i] / sum(ROWS[j] for j in z) for i in z}
        mean, plain = sum(n[i] * z[i] for i in z), sum(z.values()) / len(z)
        share = len(z) / K
        steps = {i: self.local["epochs"] * -(-ROWS[i] // self.local["batch"]) for i in z}
        if self.host == "scaffold":
            news = {i: self.c_k[i][name] - self.c[name] + (w - z[i]) / (steps[i] * self.local["lr"]) for i in z}
            drift = sum(news[i] - self.c_k[i][name] for i in z) / len(z)
            self.c[name] = self.c[name] + share * drift
            for i in z:
                self.c_k[i][name] = news[i]
            self.w[name] = w + self.own["server_lr"] * (plain - w)
        elif self.host == "fednova":
            d = sum(n[i] * (w - z[i]) / steps[i] for i in z)
            self.w[name] = w - sum(n[i] * steps[i] for i in z) * d
        elif self.host == "feddyn":
            alpha = self.own["penalty"]
            for i in z:
                self.g_k[i][name] = self.g_k[i][name] - alpha * (z[i] - w)
            self.h[name] = self.h[name] - alpha * share * (plain - w)
            self.w[name] = plain - self.h[name] / alpha
        elif self.host == "fedopt":
            self.v[name] = self.own["beta1"] * self.v[name] + mean - w
            self.w[name] = w + self.own["server_lr"] * self.v[name]
        else:
            self.w[name] = mean  # type: ignore[assignment]

    @property
    def state(self) -> dict[str, Any]:
        """As the method's own fields."""
        more: dict[str, dict[str, Any]] = {
            "moon": {"previous_k": self.last_k},
            "scaffold": {"c": self.c, "c_k": self.c_k},
            "feddyn": {"h": self.h, "g_k": self.g_k},
            "fedopt": {"m": self.v},
        }
        return {"w": self.w, **more.get(self.host, {})}


def features(w: Weights, x: Tensor) -> Tensor:
    """What goes into the last layer."""
    return torch.relu(x @ w["0.weight"].T + w["0.bias"])
