"""Products of few rows in slices, by several lanes, and of layers together: the same numbers as the layers' own."""

import ctypes

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache

from pensieved.engine.worker.passes.cpu import device, openblas, trial, unpacked
from pensieved.engine.worker.passes.cpu.linear import multiply_few_rows, take_over
from pensieved.engine.worker.passes.cpu.siblings import by_input, multiply_unpacked
from pensieved.engine.worker.passes.cpu.unpacked import Lanes, Product

pytestmark = pytest.mark.skipif(not device.on_x86(), reason="for a CPU that is x86")


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(16, 24), (192, 64), (56, 3000), (2032, 33)])
@pytest.mark.parametrize("shape", [(1,), (5, 1), (2, 3), ()], ids=str)
def test_a_product_is_x_times_the_weights_transposed(lanes, size, shape):
    weight, x = mx.random.normal(size), mx.random.normal((*shape, size[1]))
    product = Product(weight, Lanes(lanes))
    assert product.most_rows >= 5
    found = product(x)
    assert found.shape == (*shape, size[0])
    assert mx.allclose(found, x @ weight.T, rtol=1e-4, atol=1e-3)


def test_no_slice_is_too_large_for_the_small_kernels():
    for outputs, inputs in ((576, 576), (49152, 576), (896, 4864), (4096, 14336), (40, 90_000)):
        length = unpacked._slice_length(outputs, inputs)
        rows = Product(mx.zeros((outputs, inputs)), Lanes(2)).most_rows
        assert outputs % length == 0
        assert length * inputs * rows <= unpacked.LARGEST
        assert length * rows <= unpacked.LARGEST_RESULT
    assert Product(mx.zeros((576, 576)), Lanes(2)).most_rows == unpacked.MOST_ROWS


def test_what_cannot_be_cut_evenly_does_not_fit():
    assert Product.fits(49152, 576)
    assert not Product.fits(50021, 768)  # a prime number
    assert not Product.fits(7, 768)


def tiny(*, tied=True):
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1}
    arguments = llama.ModelArgs(
        model_type="llama",
        num_hidden_layers=2,
        rms_norm_eps=1e-5,
        vocab_size=64,
        rope_theta=1e4,
        attention_bias=True,
        tie_word_embeddings=tied,
        **sizes,
    )
    mx.random.seed(3)
    model = llama.Model(arguments)
    mx.eval(model.parameters())
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 16, 17])
def test_a_model_computes_what_it_did(tied, rows):
    model = tiny(tied=tied)
    ids = mx.random.randint(0, 64, (rows, 1))
    weights = dict(tree_flatten(model.parameters()))
    size = sum(array.nbytes for array in weights.values())
    wanted = model(ids)
    layers = take_over(model)
    multiply_unpacked(by_input(model, layers), Lanes(2))
    assert mx.allclose(model(ids), wanted, rtol=1e-4, atol=1e-5)
    after = dict(tree_flatten(model.parameters()))
    assert sum(array.nbytes for array in after.values()) == size
    assert all(mx.array_equal(after[name], array) for name, array in weights.items())


def test_layers_that_read_the_same_are_multiplied_together(monkeypatch):
    model = tiny()
    multiply_unpacked(by_input(model, take_over(model)), Lanes(2))
    made, theirs = [], Product.__call__
    monkeypatch.setattr(
        Product, "__call__", lambda self, x: made.append(theirs(self, x).shape) or theirs(self, x)
    )
    mx.eval(model(mx.array([[5]])))
    layer = [(1, 1, 48 + 16 + 16), (1, 1, 48), (1, 1, 96 + 96), (1, 1, 48)]
    assert made == [*layer, *layer, (1, 1, 64)]


def test_each_gets_what_belongs_to_its_own_input():
    model = tiny()
    attention = model.model.layers[0].self_attn
    one, other = mx.random.normal((2, 1, 48)), mx.random.normal((3, 1, 48))
    asked = [("q_proj", one), ("k_proj", other), ("v_proj", one), ("k_proj", one), ("q_proj", other)]
    wanted = [attention[name](x) for name, x in asked]
    multiply_unpacked(by_input(model, take_over(model)), Lanes(2))
    for (name, x), array in zip(asked, wanted, strict=True):
        assert mx.allclose(attention[name](x), array, rtol=1e-4, atol=1e-5)


def test_nothing_of_a_pass_is_kept():
    model = tiny()
    multiply_unpacked(by_input(model, take_over(model)), Lanes(2))
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([[5]]), cache=cache))
    del cache
    before = mx.get_active_memory()
    for _ in range(3):
        mx.eval(model(mx.array([[5]])))
    assert mx.get_active_memory() == before


class Twice(nn.Module):
    """A model that calls a layer for two inputs, and layers of numbers and shapes that do not suit."""

    def __init__(self):
        super().__init__()
        self.layers = []
        self.used = nn.Linear(16, 16)
        self.half = nn.Linear(16, 16)
        self.odd = nn.Linear(16, 7)
        self.half.set_dtype(mx.bfloat16)

    def __call__(self, ids, cache=None):
        x = mx.ones((*ids.shape, 16))
        return self.odd(self.used(self.used(x))) + self.half(x.astype(mx.bfloat16)).sum()


def test_layers_that_do_not_suit_are_left_alone():
    model = Twice()
    wanted = model(mx.array([[0]]))
    layers = take_over(model)
    multiply_unpacked(by_input(model, layers), Lanes(2))
    assert isinstance(model.used.product, Product)
    assert model.odd.product is None
    assert model.half.product is None
    assert mx.allclose(model(mx.array([[0]])), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kernels", "threads", "pays", "used"),
    [(True, 2, True, True), (True, 64, True, False), (False, 2, True, False), (True, 2, False, False)],
)
def test_it_is_done_where_the_blas_can_and_it_pays(monkeypatch, kernels, threads, pays, used):
    monkeypatch.setattr(openblas, "has_small_kernels", lambda: kernels)
    monkeypatch.setattr(openblas, "threads", lambda: threads)
    monkeypatch.setattr(trial, "faster", lambda *_: pays)
    model = tiny()
    multiply_few_rows(model)
    assert (model.model.layers[0].mlp.down_proj.product is not None) is used
    assert (model.model.embed_tokens.product is not None) is used


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"), [(1.0, 1.5, True), (1.5, 1.0, False), (1.0, 1.0, False)]
)
def test_what_takes_less_at_best_is_faster(ours, theirs, wanted):
    now, hitch = [0.0], iter([9, 0, 0, 7, 0, 0, 0, 0, 3, 0])

    def way(seconds):
        def done():
            now[0] += seconds + next(hitch)

        return done

    assert trial.faster(way(ours), way(theirs), clock=lambda: now[0]) is wanted


def test_both_ways_are_tried_with_the_weights_that_fit(monkeypatch):
    groups = [[mx.random.normal((outputs, 32)) for outputs in group] for group in ([16, 8], [7], [24])]
    found, apart = [], []

    def whole(weight, x):
        apart.append(weight.shape)
        return x @ weight.T

    def noting(one, other):
        theirs = mx.eval
        with monkeypatch.context() as patch:
            patch.setattr(mx, "eval", lambda array: found.append(array) or theirs(array))
            one()
            other()
        return True

    monkeypatch.setattr(trial, "faster", noting)
    assert trial.pays(groups, Lanes(2), whole)
    assert [array.shape for array in found] == [(trial.ROWS, 1)] * 2
    assert apart == [(16, 32), (8, 32), (24, 32)]
    assert not trial.pays(groups[1:2], Lanes(2), whole)


def test_without_openblas_nothing_is_claimed():
    if hasattr(ctypes.CDLL(None), "openblas_get_corename"):
        pytest.skip("this process has it")
    assert openblas.threads() == 0
    assert not openblas.has_small_kernels()
