"""The one root of every error that is a user's to mend."""


class UserError(Exception):
    """A mistake in what was given, not in this code.

    The message says what was given, what was expected and what to do; commands print it as one
    line and exit with code 2 (`--debug` shows the traceback). Every named error derives from it.
    """
