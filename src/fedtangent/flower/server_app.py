"""The ServerApp: leads a run by the server's kit, or has a site lead it, and tells Flower how it ended."""

import sys
from collections.abc import Collection, Mapping

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedtangent.errors import UserError
from fedtangent.flower import ORDER, leading
from fedtangent.flower.orders import Answer
from fedtangent.flower.stopping import stoppable

_LIFE = 30 * 86400.0  # seconds that a run may take: Flower drops older messages
_LOST = (5, 8)  # of Flower's errors: the SuperNode, or the process of the ClientApp, has said nothing for a while


class _Nodes:
    """The SuperNodes, by Flower's grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def there(self) -> Mapping[int, str]:
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def ask(self, kind: str, node: int, told: str) -> str:
        content = RecordDict({ORDER: ConfigRecord({ORDER: told})})
        (number,) = self._grid.push_messages([Message(content, node, kind, ttl=_LIFE)])
        return str(number)

    def answers(self, asked: Collection[str]) -> dict[str, Answer]:
        return {
            reply.metadata.reply_to_message_id: Answer({}, reply.error.reason or "nothing", reply.error.code in _LOST)
            if reply.has_error()
            else Answer(dict(reply.content[ORDER]))
            for reply in (self._grid.pull_messages([*asked]) if asked else ())
        }


def _main(grid: Grid, context: Context) -> None:
    try:
        with stoppable():
            leading.lead(_Nodes(grid), context.run_config)
    except (UserError, OSError) as error:
        print(f"fedtangent: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        raise


app = ServerApp()
app.main()(_main)
