"""FedAvg without a federation: the same steps on stacked chunks of clients, in PyTorch alone. Our floor."""

import time

import torch
from peers.problem import BATCH, LR, Found, load, network
from torch import Tensor
from torch.nn.functional import cross_entropy

CHUNK = 53  # clients, as many as our budget of a chunk allows here


def found(folder: str, threads: int) -> Found:
    """All rounds."""
    problem, model = load(folder), network()
    clients, rows = problem.order.shape[1:]

    def loss(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(torch.func.functional_call(model, w, (x,)), y)

    gradient = torch.func.vmap(torch.func.grad(loss))
    w, seconds = dict(problem.w_0), []
    for order in problem.order:
        begin = time.perf_counter()
        total = {name: torch.zeros_like(part) for name, part in w.items()}
        for chunk in torch.arange(clients).split(CHUNK):
            x, y = problem.x[chunk[0] : chunk[-1] + 1].flatten(0, 1), problem.y[chunk]
            w_k = {name: part.expand(len(chunk), *part.shape).clone() for name, part in w.items()}
            first = rows * torch.arange(len(chunk))[:, None]
            for index in order[chunk].split(BATCH, 1):
                rows_k = x.index_select(0, (first + index).flatten()).unflatten(0, index.shape)
                g_k = gradient(w_k, rows_k, y.gather(1, index))
                for name, part in w_k.items():
                    part.add_(g_k[name], alpha=-LR)
            for name, part in w_k.items():
                total[name] += part.sum(0)
        w = {name: part / clients for name, part in total.items()}
        seconds.append(time.perf_counter() - begin)
    return Found(seconds, w)
