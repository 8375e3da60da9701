"""FedAvg by pfl-research: its simulated backend, a process a core."""

import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from peers.problem import BATCH, LR, Found, load, network
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Network(nn.Module):
    """The network with the loss and the metrics that pfl asks for."""

    def __init__(self, w: dict[str, Tensor]) -> None:
        super().__init__()
        self.inner = network()
        self.inner.load_state_dict(w)

    def loss(self, x: Tensor, y: Tensor, is_eval: bool = False) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(self.inner(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """The loss; in the first round only, which pfl always evaluates."""
        with torch.no_grad():
            return {"loss": Weighted(len(y) * self.loss(x, y).item(), len(y))}


class Clock(TrainingProcessCallback):
    """When rounds end."""

    def __init__(self) -> None:
        self.ends = [time.perf_counter()]

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Notes the time."""
        self.ends.append(time.perf_counter())
        return False, Metrics()


def found(folder: str, threads: int) -> Found:
    """All rounds; `threads` is the number of processes that torchrun has started."""
    problem = load(folder)
    rounds, clients, _ = problem.order.shape
    clock = Clock()

    def client(k: int) -> PyTorchTensorDataset:
        rows = problem.order[len(clock.ends) - 1, k]
        return PyTorchTensorDataset((problem.x[k][rows], problem.y[k][rows]), user_id=str(k))

    np.random.seed(0)  # noqa: NPY002  # pfl reads it; the same in all processes
    model = Network(problem.w_0)
    data = FederatedDataset(client, MinimizeReuseUserSampler(range(clients)))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds,  # that is: in the first round
            train_cohort_size=clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=data, val_data=None),
        PyTorchModel(model, torch.optim.SGD, torch.optim.SGD(model.parameters(), lr=1.0)),
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH),
        NNEvalHyperParams(local_batch_size=None),
        [clock],
    )
    seconds = [end - begin for begin, end in pairwise(clock.ends)]
    return Found(seconds, {name: w.detach() for name, w in model.inner.named_parameters()})
