"""Texts as CSV, as the Hugging Face containers of SageMaker take them: one row for each text.

The first row has the names of the columns.
The column `inputs` (or `text`) has the texts, and `text_pair`, if there is one, the second texts of pairs. The rows
become a request of the Hugging Face Inference API.
"""

import csv
import io

from service.protocols import BadRequest

csv.field_size_limit(2**31 - 1)  # PRUNELLA_MAX_TEXT_CHARS is the limit
COLUMNS = ("inputs", "text")


def document(body: bytes) -> dict[str, object]:
    """Return the JSON document of a request of POST / with the rows of a CSV text.

    Raises:
        BadRequest: 400, it is not UTF-8, not CSV, or its first line does not name the columns.
    """
    try:
        rows = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(400, f"the body is not valid CSV: {error}") from None
    names = [name.strip() for name in rows[0]] if rows else []
    column = next((names.index(name) for name in COLUMNS if name in names), None)
    if column is None:
        raise BadRequest(400, "the first line of the CSV must name the column `inputs`")
    second = names.index("text_pair") if "text_pair" in names else None
    inputs: list[object] = []
    for i, row in enumerate(row for row in rows[1:] if row):
        if len(row) != len(names):
            raise BadRequest(400, f"a row of the CSV has {len(row)} columns instead of {len(names)}").at(i)
        inputs.append(row[column] if second is None else {"text": row[column], "text_pair": row[second]})
    return {"inputs": inputs, "parameters": {}}
