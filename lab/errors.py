"""Exceptions of the lab."""


class LabError(Exception):
    """A machine could not be started, or a command in it failed. The message includes its output."""


class Unavailable(LabError):
    """This computer cannot run a machine. The message has a remedy. Tests skip."""


class TimedOut(LabError):
    """A wait exceeded its time-out."""


class MachineGone(LabError):
    """The machine ended or was killed before the command ended."""
