"""Which files make the model."""

from __future__ import annotations

import pytest

from pensieved.errors import ModelUnavailableError, UnsupportedModelError
from pensieved.models.preparer.select import select_files, select_gguf

REPOSITORY = [
    f"m.{q}.gguf"
    for q in ("BF16", "Q2_K", "Q3_K_M", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "IQ4_XS")
]


@pytest.mark.parametrize(
    ("quantization", "file"),
    [
        ("auto", "m.Q4_K_M.gguf"),
        ("4bit", "m.Q4_K_M.gguf"),
        ("3bit", "m.Q3_K_M.gguf"),
        ("5bit", "m.Q5_K_M.gguf"),
        ("6bit", "m.Q6_K.gguf"),
        ("8bit", "m.Q8_0.gguf"),
        ("none", "m.BF16.gguf"),
    ],
)
def test_the_gguf_that_is_wanted(quantization, file):
    assert select_files([*REPOSITORY, "README.md", "mmproj-m.F16.gguf"], quantization, "m").weights == (file,)


def test_more_bits_before_fewer():
    assert select_files(["m-Q2_K.gguf", "m-Q8_0.gguf"], "auto", "m").weights == ("m-Q8_0.gguf",)


def test_split_files_are_one_model_and_incomplete_ones_are_none():
    parts = [f"Q8_0/m-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert select_files(parts[::-1], "auto", "m").weights == tuple(parts)
    assert select_gguf(parts, parts[0], "m").files == tuple(parts)
    with pytest.raises(ModelUnavailableError, match="no complete GGUF file"):
        select_gguf(parts[:2], parts[0], "m")


def test_safetensors_before_gguf_and_the_index_says_which():
    names = [
        "config.json",
        "model.safetensors",
        "model.fp16.safetensors",
        "m.Q8_0.gguf",
        "sub/model.safetensors",
    ]
    assert select_files(names, "auto", "m").weights == ("model.safetensors",)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    chosen = select_files([*names, *shards, "model.safetensors.index.json"], "auto", "m")
    assert chosen.weights == tuple(shards)


def test_python_files_only_when_trusted():
    names = ["config.json", "model.safetensors", "modeling.py"]
    assert "modeling.py" not in select_files(names, "auto", "m").files
    assert "modeling.py" in select_files(names, "auto", "m", code=True).files


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin", "config.json"], "only pickled PyTorch weights"),
        (["model.safetensors"], "no config.json"),
        (["README.md"], "holds no model"),
        (["adapters.safetensors", "config.json"], "holds no model"),
    ],
)
def test_nothing_to_serve(names, message):
    with pytest.raises(UnsupportedModelError, match=message):
        select_files(names, "auto", "m")


def test_names_that_lead_out_of_the_folder_are_no_files():
    names = ["../m.Q8_0.gguf", "/m.Q8_0.gguf", "a/../../m.Q8_0.gguf"]
    with pytest.raises(UnsupportedModelError, match="holds no model"):
        select_files(names, "auto", "m")
