"""Linear layers that take a few rows one by one give what they gave."""

import mlx.core as mx
import pytest
from mlx import nn

from pensieved.engine.worker.passes import vectors
from pensieved.engine.worker.passes.vectors import VectorEmbedding, VectorLinear, see_vectors


class Model(nn.Module):
    """One layer of each kind that there is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 128, bias=False)
        self.biased = nn.Linear(64, 8)
        self.embedding = nn.Embedding(128, 64)
        self.quantized = nn.QuantizedLinear(64, 8)


@pytest.mark.parametrize("shape", [(5, 1, 64), (2, 3, 64), (1, 1, 64), (33, 1, 64), (4, 64), (64,)], ids=str)
@pytest.mark.parametrize("most", [1 << 30, 0])
def test_same_numbers_in_the_same_shape(monkeypatch, shape, most):
    mx.random.seed(3)
    monkeypatch.setattr(vectors, "MOST_BYTES", most)
    model, x, ids = Model(), mx.random.normal(shape), mx.array([[3, 5]])

    def outputs():
        return [model.linear(x), model.biased(x), model.embedding.as_linear(x), model.embedding(ids)]

    before = outputs()
    see_vectors(model)
    assert (type(model.linear), type(model.biased)) == (VectorLinear, VectorLinear)
    assert (type(model.embedding), type(model.quantized)) == (VectorEmbedding, nn.QuantizedLinear)
    for one, other in zip(before, outputs(), strict=True):
        assert one.shape == other.shape
        assert mx.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_only_a_few_rows_of_small_weights_are_taken_one_by_one(monkeypatch):
    taken = []
    by_rows = vectors._by_rows
    monkeypatch.setattr(vectors, "_by_rows", lambda x, weight: taken.append(x.shape[0]) or by_rows(x, weight))
    monkeypatch.setattr(vectors, "MOST_BYTES", 8 * 128 * 64 * 4)
    model = Model()
    see_vectors(model)
    for rows in (1, 2, 8, 9, 40):
        mx.eval(model.linear(mx.zeros((rows, 1, 64))))
    assert taken == [2, 8]
