"""The errors that Prunella raises on purpose.

PrunellaError                 a problem that the user can solve; the command line prints it as one sentence
├── InputError      (exit 2)  wrong use: an invalid file, flag, text or checkpoint
│   ├── FolderError           a model folder is incomplete, was altered, or is of another kind
│   ├── UntrimmableError      the tokenizer is of a kind whose vocabulary cannot be trimmed
│   └── MissingExtraError     the verb needs packages that are not installed
└── CheckError      (exit 1)  the work was done, but its result must not be used
    ├── DisagreementError     two forms of one model answer differently
    ├── NoEffectError         the work changed nothing
    └── TargetError           the requested speed or loss was not reached
        └── FallBackError     because sublayers that should be int8 stayed in fp32
"""


class PrunellaError(Exception):
    """A problem that the user can solve; the message says what was found, what was expected and what to do."""

    exit_code = 2


class InputError(PrunellaError):
    """Wrong use: an invalid file, flag, text or checkpoint."""


class FolderError(InputError):
    """A model folder is incomplete, was altered, or is of another kind."""


class MissingExtraError(InputError):
    """The verb needs packages that are not installed."""


class UntrimmableError(InputError):
    """The tokenizer is of a kind whose vocabulary cannot be trimmed."""


class CheckError(PrunellaError):
    """The work was done, but its result must not be used."""

    exit_code = 1


class DisagreementError(CheckError):
    """Two forms of one model answer differently."""


class NoEffectError(CheckError):
    """The work changed nothing."""


class TargetError(CheckError):
    """The requested speed or loss was not reached."""


class FallBackError(TargetError):
    """The requested speed was not reached because `sublayers`, such as "5.ffn", stayed in fp32 instead of int8."""

    def __init__(self, message: str, sublayers: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.sublayers = sublayers
