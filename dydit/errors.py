"""The one error class that reaches a user without a traceback."""


class InputError(ValueError):
    """Input that cannot be used: one line with what is wrong, where, and the remedy.

    The command line prints it and exits with status 2, before any long work starts.
    """
