"""The kinds of error that a user can do something about: what was given, expected, and to do."""


class UserError(Exception):
    """The root: the cause is the input or the machine, not this code."""


class BadInput(UserError, ValueError):
    """An argument, option, file or text that cannot be used as it is."""


class NotFound(UserError):
    """Something that was named is not there."""


class Damaged(UserError):
    """A file written by this project has changed since."""


class OtherSettings(UserError):
    """A run that was begun with other settings."""


class Busy(UserError):
    """Another process is writing the same run."""


class NothingToDraw(UserError):
    """A table exists but holds no row that the picture shows."""


class DiskFull(UserError):
    """What has to be written does not fit on the disk."""
