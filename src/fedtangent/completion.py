"""Completion: what may follow the words of a command line, and the script by which a shell asks for it."""

from collections.abc import Sequence

from fedtangent import catalog, parsers
from fedtangent.errors import SettingError
from fedtangent.parser import Parser

# A shell hands over all words up to the cursor, the last of which may be empty; without an answer it offers files.
_BASH = """_fedtangent() {
    local IFS=$'\\n'
    COMPREPLY=($(fedtangent --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -o bashdefault -F _fedtangent fedtangent
"""
_ZSH = """_fedtangent() {
    local -a found
    found=(${(f)"$(fedtangent --complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -a found; else _files; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _fedtangent fedtangent
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH}
_PLACES = {"run": "METHOD", "check": "METHOD", "recipe": "NAME", **parsers.PLACES}


def script(words: Sequence[str]) -> str:
    """What a shell is to read.

    Raises:
        ValueError: Not the name of a shell that is known.
    """
    if len(words) != 1 or words[0] not in SCRIPTS:
        got = " ".join(words) or "nothing"
        raise SettingError(f"`completion` must be of one of {', '.join(SCRIPTS)}; got {got}. Name your shell.")
    return SCRIPTS[words[0]]


def following(words: Sequence[str]) -> list[str]:
    """What the last word may become, given those before it; nothing where files, numbers or texts are asked for."""
    before, last = list(words[:-1]), words[-1] if words else ""
    return [word for word in _offered(before, last) if word.startswith(last)]


def _offered(before: list[str], last: str) -> list[str]:
    if not before:
        return [*parsers.COMMANDS, *parsers.SITE_COMMANDS, "list", "completion", "--help", "--version"]
    command = before[0]
    if command == "list":
        return [folder for folder in catalog.FOLDERS if folder not in before]
    if command == "completion":
        return list(SCRIPTS)
    places = _PLACES.get(command, "").split()
    if len(before) <= len(places):
        folder = {"METHOD": "methods", "NAME": "recipes"}.get(places[len(before) - 1])
        return [] if folder is None else catalog.names(folder)
    parser = _parser(before)
    if parser is None:
        return []
    if (values := parser.among.get(before[-1])) is not None:
        return list(values)
    if before[-1] in parser.valued or not last.startswith("-"):
        return []
    return [name for name in parser.shown if name not in before]


def _parser(before: list[str]) -> Parser | None:
    """The parser of a command, as far as it is typed; None where the files do not tell it."""
    command, rest = before[0], before[1:]
    try:
        if command in ("demo", "report"):
            return parsers.command_parser(command)
        if command == "recipe":
            return parsers.recipe_parser(rest[0])
        if command not in _PLACES:
            return None
        words = rest[:-1] if rest[-1].startswith("--") else rest  # its value is what is being typed
        if command in ("run", "check"):
            return parsers.method_parser(command, rest[0], parsers.chosen_parts(command, words[1:]))
        if command in ("server", "start"):
            return parsers.leading_parser(command, rest[1], parsers.chosen_parts(command, words[2:]))
        return parsers.site_parser(command, parsers.chosen_parts(command, words[1:]))
    except (SettingError, LookupError):
        pass
    return None
