"""label_flip: honest messages about false labels.

Tolpegin, Truex, Gursoy, Liu. Data Poisoning Attacks Against Federated Learning Systems. ESORICS 2020. arXiv 2007.08432;
with all classes turned round as by Karimireddy, He, Jaggi. ICML 2021.
"""

from fedtangent.errors import SettingError
from fedtangent.federation import Attack
from fedtangent.shard import Shard


def label_flip() -> Attack:
    """Label c becomes C - 1 - c in the liar's training rows, and all that it sends follows from them.

    Raises:
        ValueError: As soon as there is a liar: targets in place of labels.
    """

    def data(shard: Shard, classes: int) -> Shard:
        if not classes:
            raise SettingError(
                "`attack` must be another in a regression, which has no labels; got label_flip. Use noise."
            )
        return shard._replace(y=classes - 1 - shard.y)

    return Attack(data=data)
