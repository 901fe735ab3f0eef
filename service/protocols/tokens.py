"""Token ids of a text and the text of token ids, as vLLM has them: POST /tokenize and POST /detokenize.

{"prompt", "add_special_tokens"?, "return_token_strs"?} → {"count", "max_model_len", "tokens", "token_strs"};
{"tokens": [id, …]} → {"prompt"}.
"""

from typing import Annotated

from pydantic import Field, StrictInt

from models.tokenizer import Tokenizer
from service.protocols import BadRequest, StopAtFirst, validated
from service.protocols.openai import Body


class TokenizeBody(Body):
    """JSON of a request to /tokenize."""

    prompt: str = Field(description="the text")
    add_special_tokens: bool = Field(True, description="whether the tokenizer adds its special tokens")
    return_token_strs: bool | None = Field(None, description="whether the answer has the tokens as text too")


class DetokenizeBody(Body):
    """JSON of a request to /detokenize."""

    tokens: Annotated[list[StrictInt], StopAtFirst()] = Field(description="token ids")


def read(document: object) -> TokenizeBody:
    """Convert a parsed JSON document of /tokenize."""
    if isinstance(document, dict) and document.get("messages") is not None:
        raise BadRequest(400, "`messages` is for chat models: send the text as `prompt`")
    return validated(TokenizeBody, document, 400)


def write(ids: list[int], body: TokenizeBody, tokenizer: Tokenizer, max_tokens: int) -> object:
    """Return the JSON of the answer of /tokenize."""
    strings = tokenizer.token_strings(ids) if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": max_tokens, "tokens": ids, "token_strs": strings}


def read_ids(document: object, table: int, most: int) -> DetokenizeBody:
    """Convert a parsed JSON document of /detokenize.

    Args:
        document: the document.
        table: rows of the model's token table, which every id must be below.
        most: largest number of ids.

    Raises:
        BadRequest: 400, an id is not in the table; 413, there are too many.
    """
    body = validated(DetokenizeBody, document, 400)
    if len(body.tokens) > most:
        raise BadRequest(413, f"{len(body.tokens)} token ids, at most {most} are accepted")
    check_ids(body.tokens, table)
    return body


def check_ids(ids: list[int], table: int) -> None:
    """Check that the model's token table has a row for every id.

    Raises:
        BadRequest: 422, it lacks one; vLLM's protocol answers this with 400.
    """
    if ids and not (min(ids) >= 0 and max(ids) < table):
        wrong = next(i for i in ids if not 0 <= i < table)
        raise BadRequest(422, f"token id {wrong} is not in the model's table: wanted 0 to {table - 1}")
