"""The errors that Prunella raises on purpose.

PrunellaError                 something a person can act on; the command line prints it as one sentence
├── InputError      (exit 2)  wrong use: a file, a flag, a text or a checkpoint that is not what was wanted
│   ├── FolderError           a model folder that is not whole, was altered, or is of another kind
│   ├── UntrimmableError      a tokenizer of a kind whose tokens cannot be dropped
│   └── MissingExtraError     the verb needs packages that this install does not have
└── CheckError      (exit 1)  the work ran and its result may not be used
    ├── DisagreementError     two forms of one model answer differently
    ├── NoEffectError         work that changed nothing
    └── TargetError           the asked speed or loss was not reached
        └── FallBackError     because sublayers stayed in fp32 that were to be int8
"""


class PrunellaError(Exception):
    """Something a person can act on; the message holds what was found, what was wanted and what to do."""

    exit_code = 2


class InputError(PrunellaError):
    """Wrong use: a file, a flag, a text or a checkpoint that is not what was wanted."""


class FolderError(InputError):
    """A model folder that is not whole, was altered, or is of another kind."""


class MissingExtraError(InputError):
    """The verb needs packages that this install does not have."""


class UntrimmableError(InputError):
    """A tokenizer of a kind whose tokens cannot be dropped."""


class CheckError(PrunellaError):
    """The work ran, and its result may not be used."""

    exit_code = 1


class DisagreementError(CheckError):
    """Two forms of one model answer differently."""


class NoEffectError(CheckError):
    """Work that changed nothing."""


class TargetError(CheckError):
    """The asked speed or loss was not reached."""


class FallBackError(TargetError):
    """The asked speed was not reached because `sublayers`, such as "5.ffn", stayed in fp32 that were to be int8."""

    def __init__(self, message: str, sublayers: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.sublayers = sublayers
