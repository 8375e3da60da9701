"""The ClientApp: a SuperNode's site, which says who it is, and takes part in the run when that begins."""

import sys
from collections.abc import Callable
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedtangent.errors import UserError
from fedtangent.federation.engine import NodeError
from fedtangent.flower import ORDER, taking_part
from fedtangent.flower.stopping import stoppable
from fedtangent.reports.schema import printable

_FAILED = 100  # of Flower's numbers of errors, one that it does not use itself


def _known(message: Message, context: Context) -> Message:
    return _answer(message, lambda told: taking_part.known(context.node_config))


def _taken(message: Message, context: Context) -> Message:
    return _answer(message, lambda told: taking_part.taken(context.node_config, told))


def _answer(message: Message, fn: Callable[[str], dict[str, Any]]) -> Message:
    """The reply; one sentence, here and to the ServerApp, where something cannot be."""
    try:
        with stoppable():
            values = fn(str(message.content[ORDER][ORDER]))
        return Message(RecordDict({ORDER: ConfigRecord(values)}), reply_to=message)
    except (UserError, OSError, NodeError) as error:
        told = printable(" ".join(str(error).split()))
        print(f"fedtangent: {told}", file=sys.stderr, flush=True)
        return Message(Error(_FAILED, told), reply_to=message)


app = ClientApp()
app.query()(_known)
app.train()(_taken)
