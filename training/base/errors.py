"""The kinds of error that a user can do something about.

Each message says what was given, what was expected and what to do. Commands print it as one line
and exit with code 2; `--debug` shows the traceback.
"""


class UserError(Exception):
    """The root: the fault lies in what was given or in the machine, not in this code."""


class BadInput(UserError, ValueError):
    """An argument, option, file or text that cannot be used as it is."""


class NotFound(UserError):
    """Something that was named is not there."""


class Damaged(UserError):
    """A file that this project wrote is not the one it wrote."""


class OtherSettings(UserError):
    """What is there was begun with other settings."""


class Busy(UserError):
    """Another process is at work on the same run."""


class DiskFull(UserError):
    """What has to be written will not fit on the disk."""
