"""The errors archcost raises on purpose: one base, a child for each thing a user can mend."""


class ArchcostError(Exception):
    """The base of every error raised by archcost; its message says what was wrong, where, and the mend."""


class InputError(ArchcostError):
    """The inputs do not fit the model, or could not be guessed."""


class ModelError(ArchcostError):
    """The model cannot be traced as it is: uninitialised, cyclic, gone, or its own forward fails."""


class SpecError(ArchcostError):
    """A model SPEC, a weights file or an option that names nothing that can be loaded."""


class RewriteError(ArchcostError):
    """A layer cannot be exchanged as asked, or a model cannot be copied to do it there."""
