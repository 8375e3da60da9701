"""What a round in the tangent space takes in memory is what `node_bytes` says."""

import pytest
import torch
from torch import nn

from fedtangent.methods.fedkfac import fedkfac
from fedtangent.tangent_steps import slices
from fedtangent.tangent_steps.room import node_bytes
from fedtangent.training.task import Task
from tests.measured import measured
from tests.often import often
from tests.tangents.literal_moments import EXAMPLES, KRONECKER

SCRIPT = """
import ctypes, sys; sys.path[:0] = ["benchmarks", "."]
import measure, torch
from torch import nn
from fedtangent.federation import Graph
from fedtangent.methods.dfedkfac import dfedkfac
from fedtangent.methods.fedkfac import fedkfac
from fedtangent.methods.ntkdfl import ntkdfl
from fedtangent.methods.ntkfl import ntkfl
from fedtangent.shard import Shard, at
from fedtangent.training.task import Task
from tests import tiny_federation as federation

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(96, 4, 160, dropout=0.0, batch_first=True)
        self.words, self.encoder = nn.Embedding(3000, 96), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(96, 10)
    def forward(self, x):
        return self.head(self.encoder(self.words(x.long())).mean(1))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower, self.head = nn.GRU(12, 24, batch_first=True), nn.Linear(24, 10)
    def forward(self, x):
        return self.head(self.lower(x)[0][:, -1])

def convolutions():
    layers = [nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1536, 10))

def dense():
    layers = [nn.Linear(784, 400), nn.Tanh(), nn.Linear(400, 500), nn.Tanh(), nn.Linear(500, 300), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(300, 10))

name, rows, method, nodes = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
torch.manual_seed(0)
model, shape = {
    "dense": (dense, (784,)),
    "small": (lambda: nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)), (784,)),
    "convolutions": (convolutions, (3, 20, 20)),
    "attention": (Encoder, (48,)),
    "recurrent": (Recurrent, (9, 12)),
}[name]
x = torch.randn(rows, *shape) if name != "attention" else torch.randint(0, 3000, (rows, *shape)).float()
data = Shard(x, torch.randint(0, 10, (rows,)), torch.ones(rows, dtype=torch.bool))
few = at(data, slice(0, 3))
task = Task(model().eval(), example=few.x)
if method == "fedkfac":
    made, degree = fedkfac(task, guard=False, other="exact"), 0
    options = {"graph": None}
elif method in ("trace", "full"):
    made, degree = ntkfl(task, participation=1.0, kernel=method), 0
    options = {"graph": None}
else:
    made, degree = (dfedkfac(task, other="exact") if method == "dfedkfac" else ntkdfl(task)), 3
    across = [(i, i + nodes // 2) for i in range(nodes // 2)]
    graph = Graph([(i, (i + 1) % nodes) for i in range(nodes)] + across, nodes)
    options = {"graph": graph, "engine": federation.engine("vectorized", nodes)}
federation.run(made, [few] * nodes, rounds=1, **options)
ctypes.CDLL(None).malloc_trim(0)  # what is free but still resident would be used again, and not seen to rise
rose = measure.peak(lambda: federation.run(made, [data] * nodes, rounds=1, **options)) * 2**30
print(rose / (nodes * made.node_bytes(rows, degree)))
"""


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("name", "rows", "method", "nodes"),
    [
        ("dense", 900, "trace", 1),
        ("convolutions", 100, "full", 1),
        ("attention", 60, "fedkfac", 1),
        ("recurrent", 300, "trace", 1),
        ("small", 60, "ntkdfl", 8),
        ("convolutions", 300, "fedkfac", 1),
        ("recurrent", 400, "fedkfac", 1),
        ("small", 60, "dfedkfac", 8),
        ("convolutions", 10, "dfedkfac", 4),
        ("dense", 1500, "fedkfac", 1),
        ("dense", 900, "full", 1),
        ("convolutions", 200, "trace", 1),
        ("attention", 50, "trace", 1),
    ],
)
def test_node_bytes_are_what_a_round_takes(name: str, rows: int, method: str, nodes: int) -> None:
    """Within a factor of 1.5 of what a process's memory rises by: one node, or all at once with three neighbours."""
    assert 1 / 1.5 < measured(SCRIPT, name, str(rows), method, str(nodes)) < 1.5


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name", often(["gated", "convolutions", "transformer", "recurrent"], ["convolutions", "transformer"])
)
def test_more_rows_and_neighbours_take_more_up_to_a_slice(name: str) -> None:
    example = (EXAMPLES | KRONECKER)[name]
    needs = node_bytes(Task(example.model, example=example.samples(2)), "exact", 3, 8)
    assert needs(5, 0) <= needs(9, 0) < needs(90, 0)
    assert needs(9, 0) < needs(9, 1) < needs(9, 2) < needs(9, 4)
    assert needs(10**9, 0) < needs(5, 0) + 2 * slices.MEMORY


def test_without_an_example_shapes_tell() -> None:
    task = Task(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)))
    assert 0 < node_bytes(task, "refuse", 3, 8)(5, 0) < node_bytes(task, "refuse", 3, 8)(9, 2)
    assert node_bytes(Task(nn.Linear(1, 1)), "refuse", 3, 8)(5, 0) > 0


def test_what_cannot_be_computed_is_not_said_here() -> None:
    """But by the node that computes it."""
    made = fedkfac(Task(nn.Sequential(nn.PReLU(), nn.Linear(7, 5)), example=torch.ones(2, 7)))
    assert made.node_bytes is not None
    assert made.node_bytes(5, 0) > 0
