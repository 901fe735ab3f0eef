"""Classification of a column of a Spark data frame: `df.withColumn("answer", classify("bundle")(col("text")))`."""

from models.errors import MissingExtraError

try:
    from prunella.bulk.spark_worker import classify
except ModuleNotFoundError as error:
    raise MissingExtraError(f"prunella.spark needs {error.name}: pip install 'prunella[spark]'") from error

__all__ = ["classify"]
