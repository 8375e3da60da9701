"""The contract: who holds a value, the verbs that move it, and what computes, sends and counts; nothing of learning."""

from fedtangent.federation.coding import Channel, Coded, Coding, Draw, Message, Size
from fedtangent.federation.engine import Engine, NodeError
from fedtangent.federation.fleet import Fleet
from fedtangent.federation.graph import Graph
from fedtangent.federation.keyed import generator
from fedtangent.federation.ledger import SERVER, Ledger, Link
from fedtangent.federation.lies import Attack, Liars, Lying, Told
from fedtangent.federation.method import (
    WEIGHTS_AT_SERVER,
    WEIGHTS_BETWEEN,
    Exposure,
    Method,
    Schedule,
    Traits,
    first_weights,
    node_mean,
    of_nodes,
    participants,
    rows,
)
from fedtangent.federation.presence import Fault, Missing, Planned, Presence
from fedtangent.federation.rule import Given, Rule, checked
from fedtangent.federation.transport import Tag, Transport, Wire
from fedtangent.federation.values import ABSENT, Central, Each, Inbox

__all__ = [
    "ABSENT",
    "SERVER",
    "WEIGHTS_AT_SERVER",
    "WEIGHTS_BETWEEN",
    "Attack",
    "Central",
    "Channel",
    "Coded",
    "Coding",
    "Draw",
    "Each",
    "Engine",
    "Exposure",
    "Fault",
    "Fleet",
    "Given",
    "Graph",
    "Inbox",
    "Ledger",
    "Liars",
    "Link",
    "Lying",
    "Message",
    "Method",
    "Missing",
    "NodeError",
    "Planned",
    "Presence",
    "Rule",
    "Schedule",
    "Size",
    "Tag",
    "Told",
    "Traits",
    "Transport",
    "Wire",
    "checked",
    "first_weights",
    "generator",
    "node_mean",
    "of_nodes",
    "participants",
    "rows",
]
