"""What goes wrong in the lab."""


class LabError(Exception):
    """A machine could not be made, or a command on it did not do what it had to. Says what, with the output."""


class Unavailable(LabError):
    """No machine can be started on this computer; says what to do. A test skips."""


class TimedOut(LabError):
    """What was waited for did not happen in time."""


class MachineGone(LabError):
    """The machine ended, or was killed, before the command did."""
