"""Classification of a Ray data set: `dataset.map_batches(Classify, fn_constructor_args=("bundle",), …)`."""

from models.errors import MissingExtraError

try:
    from prunella.bulk.ray_worker import Classify
except ModuleNotFoundError as error:
    raise MissingExtraError(f"prunella.ray needs {error.name}: pip install 'prunella[ray]'") from error

__all__ = ["Classify"]
