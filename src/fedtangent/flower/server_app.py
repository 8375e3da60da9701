"""The ServerApp: leads a run by the server's kit, or has a site lead it, and tells Flower how it ended."""

import sys
from collections.abc import Collection

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedtangent.errors import UserError
from fedtangent.flower import ORDER, leading

_LIFE = 30 * 86400.0  # seconds that a run may take: Flower drops older messages


class _Nodes:
    """The SuperNodes, by Flower's grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def there(self) -> Collection[int]:
        return [*self._grid.get_node_ids()]

    def ask(self, kind: str, node: int, told: str) -> str:
        content = RecordDict({ORDER: ConfigRecord({ORDER: told})})
        (number,) = self._grid.push_messages([Message(content, node, kind, ttl=_LIFE)])
        return str(number)

    def answers(self, asked: Collection[str]) -> dict[str, leading.Answer]:
        found = {}
        for reply in self._grid.pull_messages([*asked]) if asked else ():
            error = reply.error.reason or f"error {reply.error.code}" if reply.has_error() else None
            values = {} if reply.has_error() else dict(reply.content[ORDER])
            found[reply.metadata.reply_to_message_id] = leading.Answer(values, error)
        return found


def _main(grid: Grid, context: Context) -> None:
    try:
        leading.lead(_Nodes(grid), context.run_config)
    except (UserError, OSError) as error:
        print(f"fedtangent: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        raise


app = ServerApp()
app.main()(_main)
