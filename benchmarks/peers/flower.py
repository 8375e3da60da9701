"""FedAvg by Flower: its simulation engine on Ray, an actor a core."""

import os
import time
from itertools import pairwise

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peers.problem import BATCH, LR, Found, load, network
from torch.nn.functional import cross_entropy


def train(message: Message, context: Context) -> Message:
    """A client's epoch, a plain loop of PyTorch."""
    config = message.content["config"]
    problem, client = load(str(config["folder"])), int(context.node_config["partition-id"])
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    x, y = problem.x[client], problem.y[client]
    for rows in problem.order[int(config["server-round"]) - 1, client].split(BATCH):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    reply = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(x)})}
    return Message(content=RecordDict(reply), reply_to=message)


def found(folder: str, threads: int) -> Found:
    """All rounds, in one simulation."""
    problem = load(folder)
    rounds, clients, _ = problem.order.shape
    ends: list[float] = []
    last: list[ArrayRecord] = []

    def stamp(_: int, arrays: ArrayRecord) -> None:
        ends.append(time.perf_counter())
        last[:] = [arrays]

    server, client = ServerApp(), ClientApp()
    client.train()(train)

    @server.main()
    def serve(grid: Grid, _: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        strategy.start(
            grid,
            ArrayRecord(problem.w_0),
            num_rounds=rounds,
            train_config=ConfigRecord({"folder": folder}),
            evaluate_fn=stamp,
        )

    resources = {"init_args": {"num_cpus": threads}, "client_resources": {"num_cpus": 1}}
    run_simulation(server, client, num_supernodes=clients, backend_config=resources)
    seconds = [end - begin for begin, end in pairwise(ends)]
    return Found(seconds, dict(last[0].to_torch_state_dict()))
