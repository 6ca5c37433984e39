"""Every error a user can meet, in one tree.

    MaskferError
    ├── InputError                 what the user gave cannot be used        exit 2
    │   ├── ParamsError            params.yaml or a MASKFER_* variable
    │   ├── DatasetError           a raw folder or a faces table
    │   │   └── LabelError         a label outside the classes
    │   ├── ImageError             bytes that are no picture
    │   ├── VideoError             a file that does not decode to its end
    │   └── RequestTooLarge        a body or a picture over the limit
    ├── ReleaseError               a release folder that cannot be trusted  exit 2
    │   └── ReleaseCorrupted       a file's sha256 differs
    ├── RegistryError              the registry                             exit 2
    │   ├── RegistryUnavailable    no answer
    │   ├── ModelNotFound          no such model, version or alias
    │   └── PromotionRefused       the policy says no
    ├── ServiceUnavailable         a broker, worker or service is not there exit 2
    ├── TrainingError              training cannot go on (NaN, no data, a
    │                              process lost)                            exit 2
    └── StageFailed                a stage of a pipeline failed             exit 2

A message is one line: what, where, what was got, what was expected, and the remedy.
"""


class MaskferError(Exception):
    """Base of all errors this project raises on purpose; its text is written for the user."""

    exit_code = 2


class InputError(MaskferError):
    """What the user gave cannot be used."""


class ParamsError(InputError):
    """params.yaml or an environment variable has an unknown key or a value out of range."""


class DatasetError(InputError):
    """A raw folder or a faces table is missing, empty, or lacks columns."""


class LabelError(DatasetError):
    """A label is not one of the classes."""


class ImageError(InputError):
    """Bytes do not decode to a picture."""


class VideoError(InputError):
    """A file does not decode as video, or not to its end."""


class RequestTooLarge(InputError):
    """A request body or a picture exceeds the service's limit."""


class ReleaseError(MaskferError):
    """A release folder is missing, incomplete, or of another format version."""


class ReleaseCorrupted(ReleaseError):
    """A file of a release does not have the sha256 that the release states."""


class RegistryError(MaskferError):
    """The model registry refused or failed."""


class RegistryUnavailable(RegistryError):
    """The model registry does not answer."""


class ModelNotFound(RegistryError):
    """The registry has no such model, version or alias."""


class PromotionRefused(RegistryError):
    """The promotion policy does not allow this version to become champion."""


class ServiceUnavailable(MaskferError):
    """A broker, a worker or a service does not answer."""


class TrainingError(MaskferError):
    """Training cannot go on: no data for a class, a loss that is not a number, or a process that was lost."""


class StageFailed(MaskferError):
    """A stage of a pipeline failed; the message names it and shows its last lines."""
