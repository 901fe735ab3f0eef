"""FastAPI and ONNX Runtime: a sync handler, as most people write it."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from loadtests.peers.model import PeerModel

app = FastAPI()
model = PeerModel()


class Body(BaseModel):
    """The request."""

    texts: list[str]


@app.post("/v1/classify")  # type: ignore[untyped-decorator]
def classify(body: Body) -> list[list[dict[str, Any]]]:
    """Answer."""
    return model.answer(body.texts)
