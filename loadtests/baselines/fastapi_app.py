"""FastAPI and ONNX Runtime with a synchronous request handler, which is the most common way."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from loadtests.baselines.model import BaselineModel

app = FastAPI()
model = BaselineModel()


class Body(BaseModel):
    """The request body."""

    texts: list[str]


@app.post("/v1/classify")  # type: ignore[untyped-decorator]
def classify(body: Body) -> list[list[dict[str, Any]]]:
    """Return labels and scores of each text."""
    return model.answer(body.texts)
