"""Errors of a user's making, which the command line tells in their one sentence, without a traceback.

They are the ValueError and TypeError that Python's own functions raise, and are shown by these names; the command line
alone tells them from others.
"""


class UserError(Exception):
    """What a user has to change: "`name` must <rule>; got <value>. <Remedy.>"."""


class SettingError(UserError, ValueError):
    """A value, a file or a folder that cannot be used."""


class SettingTypeError(UserError, TypeError):
    """A value of a type that cannot be used."""


SettingError.__name__, SettingTypeError.__name__ = "ValueError", "TypeError"
