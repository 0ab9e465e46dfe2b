"""The two ways in which the harness can fail, apart so that tests can tell them."""


class ClusterError(Exception):
    """The cluster cannot be started, used or stopped; the message says what to do."""


class Unavailable(ClusterError):
    """This machine lacks something (a component, a privilege); tests skip on it."""
