"""Folders of sentence-transformers and SetFit with a tiny encoder, and the scores that their parts give."""

import json
import pickle

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from tiny import make_tiny_family, tiny_texts
from transformers import AutoModel

from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.forms.linear_head import CONVERT
from models.tokenizer import Tokenizer

ROWS = tiny_texts(80).rows
ORIGIN = "sentence_transformers.models."
OLD_MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}
NEW_MEAN = {"pooling_mode": "mean", "embedding_dimension": 64}
OLD_CLS = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}


def write_json(path, document):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(document))


def make_body(folder, family="bert", pooling=OLD_MEAN, modules=("Transformer", "Pooling")):
    """Write a bare encoder as sentence-transformers does, and return it as transformers loads it."""
    whole = make_tiny_family(folder, family)
    whole.base_model.save_pretrained(folder)
    places = ["" if name == "Transformer" else f"{i}_{name}" for i, name in enumerate(modules)]
    listed = [
        {"idx": i, "name": str(i), "path": place, "type": ORIGIN + name}
        for i, (place, name) in enumerate(zip(places, modules, strict=True))
    ]
    write_json(folder / "modules.json", listed)
    write_json(folder / "1_Pooling" / "config.json", pooling)
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def embed(folder, body, pooling="mean", normalize=False):
    """Return sentence embeddings, one text at a time, without any of our code but the tokenizer."""
    rows = []
    for encoded in Tokenizer.open(folder, 40).encode(ROWS):
        with torch.no_grad():
            hidden = body(torch.tensor([encoded.ids])).last_hidden_state[0]
        rows.append(hidden.mean(dim=0) if pooling == "mean" else hidden[0])
    embeddings = torch.stack(rows).double().numpy()
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) if normalize else embeddings


def fit(embeddings, classes):
    return LogisticRegression(max_iter=500, C=10).fit(embeddings, np.resize(classes, len(embeddings)))


def save_head(folder, head):
    """Run the two lines of the message on the pickle that SetFit writes."""
    import os

    with (folder / "model_head.pkl").open("wb") as file:
        pickle.dump(head, file)
    before = os.getcwd()
    try:
        os.chdir(folder)
        exec("\n".join(CONVERT), {})
    finally:
        os.chdir(before)


def scores_here(folder, task):
    tokenizer, model = Tokenizer.open(folder, 40), load_checkpoint(folder)
    batches = [TensorBatch(tokenizer.batch(rows)) for rows in (ROWS[:1], ROWS[1:])]  # alone, and in a batch
    with torch.no_grad():
        return task.scores(torch.cat([model(batch)[0] for batch in batches]).numpy())


def write_numbers(folder, coef, intercept, **metadata):
    parts = {"coef": np.array(coef, dtype=np.float64), "intercept": np.array(intercept, dtype=np.float64)}
    save_file(parts, folder / "model_head.safetensors", metadata=metadata)


def head_of(folder, normalize=False):
    """Write a head for the mean, and return what its scores must be."""
    body = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    embeddings = embed(folder, body, normalize=normalize)
    head = fit(embeddings, [0, 1])
    save_head(folder, head)
    return head.predict_proba(embeddings)
