"""Refit against numpy.linalg.lstsq: the damping is rows of its own there, so both solve the same problem."""

import numpy as np
import pytest
import torch
from cutting import plain_rung, tiny_batches

from compress.pruning.gram import append_ones, hook_output_matrices, output_matrix, select_tokens
from compress.pruning.obs import DAMPING, least_squares
from compress.pruning.refit import fit_rows, refit, residual_stream
from compress.pruning.surgery import cut


def numpys(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return the damped map (outputs, inputs + 1) from rows of inputs and a constant, by numpy."""
    rows = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    ridge = np.sqrt(DAMPING * (inputs**2).sum(0).mean()) * np.eye(inputs.shape[1], rows.shape[1])
    damped = np.concatenate([rows, ridge]), np.concatenate([outputs, np.zeros((len(ridge), outputs.shape[1]))])
    return np.linalg.lstsq(*damped, rcond=None)[0].T


@pytest.fixture(params=[False, True], ids=["single", "pair"])
def tiny(request, tmp_path):
    return tiny_batches(tmp_path, request.param)


def test_rows_are_fitted_as_numpy_fits_them():
    generator = np.random.default_rng(0)
    inputs = generator.normal(1.0, 2.0, (300, 12)) @ generator.normal(size=(12, 12))
    outputs = generator.normal(size=(300, 5))
    wanted = numpys(inputs, outputs)
    x, y = torch.from_numpy(inputs), torch.from_numpy(outputs)
    pieces = [(x[:100], y[:100]), (x[100:], y[100:])]
    np.testing.assert_allclose(fit_rows(pieces).numpy(), wanted, rtol=1e-7, atol=1e-9)
    rows = append_ones(x)
    np.testing.assert_allclose(least_squares(rows.T @ rows, y.T @ rows).numpy(), wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["0.attention", "0.ffn", "1.ffn"])
def test_a_refitted_matrix_is_numpys_solution_towards_the_teachers_stream(tiny, name):
    """Of the last layer the first token's rows count alone."""
    teacher, batches = tiny
    units = np.array([0, 2]) if name.endswith("attention") else np.arange(0, 96, 4)
    student = cut(teacher, {name: plain_rung(teacher, name, units)})
    refit(student, teacher, batches)
    inputs: list[torch.Tensor] = []
    handles = hook_output_matrices(student, [name], lambda _, found: inputs.append(found))
    x, y = [], []
    with torch.no_grad():
        for batch in batches:
            ours, theirs = (m.encoder.embeddings(batch.ids, batch.types) for m in (student, teacher))
            for before in ("0.attention", "0.ffn", "1.attention", "1.ffn"):
                wanted, after = residual_stream(teacher, before, theirs, batch)
                inputs.clear()
                passed = residual_stream(student, before, ours, batch)[1]
                if before == name:
                    break
                ours, theirs = passed, after
            x.append(select_tokens(inputs[0], batch.mask, name[0] == "1").double().numpy())
            y.append(select_tokens(wanted - ours, batch.mask, name[0] == "1").double().numpy())
    for handle in handles:
        handle.remove()
    matrix = output_matrix(student, name)
    found = torch.cat([matrix.weight, matrix.bias[:, None]], dim=1).detach().numpy()
    np.testing.assert_allclose(found, numpys(np.concatenate(x), np.concatenate(y)), rtol=1e-3, atol=1e-4)
