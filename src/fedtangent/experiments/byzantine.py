"""Byzantine: an attack with the options that say who lies, and a rule with those that say what it sees."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments.options import options
from fedtangent.federation import Attack, Lying, Rule
from fedtangent.federation.rule import Sums
from fedtangent.own import called, check_takes


def completed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of an attack or a rule with its own options and those that all of its kind have.

    Args:
        part: `attack` or `rule`.
        function: Of a file, or a user's.
    """
    own = options(function)
    common = attack if part == "attack" else rule
    clash = sorted(own.keys() & options(common).keys())
    if clash:
        raise SettingError(f"`{part}` must not have an option {clash[0]!r}, which all have; got one. Rename it.")

    def made(**given: Any) -> Any:
        its = {name: given.pop(name) for name in [*given] if name in own}
        return common(called(part, function, "", **its), **given)

    signature = inspect.signature(common)
    mine = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    made.__name__ = str(getattr(function, "__name__", "custom"))
    made.__module__ = str(getattr(function, "__module__", __name__))
    made.__signature__ = inspect.Signature([*mine, *list(signature.parameters.values())[1:]])  # type: ignore[attr-defined]
    hints = {name: option.kind for name, option in {**own, **options(common)}.items()}
    made.__annotations__ = hints
    made.__doc__ = "\n".join(
        [inspect.getdoc(common) or "", *(f"    {option.name}: {option.help}" for option in own.values())]
    )
    return made


def attack(made: Attack, *, share: float = 0.1, who: Sequence[int] | None = None) -> Lying:
    """An attack, and who lies.

    Args:
        made: What liars do.
        share: Of the nodes that lie, drawn by the seed, one at least; in (0, 1).
        who: The numbers of those that lie, in place of drawn ones.
    """
    if not isinstance(made, Attack):
        raise SettingTypeError(
            f"`attack` must give an Attack; got {type(made).__name__}. Return fedtangent.federation.Attack(...)."
        )
    if made.lie is not None:
        check_takes("lie", made.lie, "told", None)
    if made.data is not None:
        check_takes("data", made.data, "shard, classes", None, None)
    if not 0 < share < 1:
        raise SettingError(f"`share` must be in (0, 1); got {share}. Use 0.1 for a tenth of the nodes.")
    if who is not None and share != options(attack)["share"].default:  # which a manifest holds beside it
        raise SettingError(
            f"`share` must be left out where `who` names those that lie; got {share}. Drop one of the two."
        )
    return Lying(made, share, None if who is None else tuple(who))


def rule(made: Rule, *, groups: int = 1, sums: Sums = "clip") -> Rule:
    """A rule, and what it sees.

    Args:
        made: How messages are averaged.
        groups: How many clients' messages a server adds up, in drawn groups, before the rule sees them; 1 for single
            messages. With 3 or more no client's message is seen by itself, and a liar spoils its group.
        sums: What becomes of what nodes contribute to sums: screen leaves out what cannot be, clip also shortens as
            many of the longest contributions as may be lies, rule averages them by the rule.
    """
    if not isinstance(made, Rule):
        raise SettingTypeError(
            f"`rule` must give a Rule; got {type(made).__name__}. Return fedtangent.federation.Rule(...)."
        )
    check_takes("average", made.average, "given", None)
    check_takes("least", made.least, "liars", None)
    least = made.least(made.liars or 0) if made.liars is None or isinstance(made.liars, int) else None
    if not isinstance(least, int):
        raise SettingTypeError(
            f"`rule` must tell a number of liars, or none, and the least number of messages for it; got {made.liars!r} "
            f"and {least!r}. Return integers."
        )
    if groups < 1:
        raise SettingError(f"`groups` must be at least 1; got {groups}. Use 1 for single messages.")
    if sums not in get_args(Sums):
        raise SettingError(f"`sums` must be one of {', '.join(get_args(Sums))}; got {sums!r}. Choose one of these.")
    return made._replace(groups=groups, sums=sums)
