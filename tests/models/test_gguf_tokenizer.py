"""Tokenizers rebuilt from GGUF metadata, against the libraries that the vocabularies were made with."""

from __future__ import annotations

import io
import json

import gguf
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pensieved.errors import UnsupportedModelError
from pensieved.models.gguf.pretokenize import split_patterns
from pensieved.models.gguf.reader import GgufModel
from pensieved.models.gguf.tokenizer import write_tokenizer
from support import tiny

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "what is the capital of France?",
    "def f(x):\n    return x",
]
TEXTS = ["the quick brown fox", "  two  spaces ", "what is it? naïve 日本語 🎉", "a", "fox\n\nfox"]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def trained(request):
    """A sentencepiece model as that family trains it, and its architecture."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_writer=out,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=request.param == "llama",
        user_defined_symbols=["<start_of_turn>"],
        minloglevel=2,
    )
    return request.param, sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def write(path, architecture, keys):
    writer = gguf.GGUFWriter(path, architecture)
    keys(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufModel([path], "tiny")


@pytest.fixture(scope="module")
def rebuilt(trained, tmp_path_factory):
    architecture, processor = trained
    folder = tmp_path_factory.mktemp("spm")
    ids = range(processor.vocab_size())

    def keys(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list([processor.id_to_piece(i) for i in ids])
        writer.add_token_scores([processor.get_score(i) for i in ids])
        writer.add_token_types([_token_type(processor, i) for i in ids])
        writer.add_bos_token_id(processor.bos_id())
        writer.add_eos_token_id(processor.eos_id())
        writer.add_unk_token_id(processor.unk_id())

    write_tokenizer(write(folder / "m.gguf", architecture, keys), folder, 512)
    return processor, Tokenizer.from_file(str(folder / "tokenizer.json")), folder


def _token_type(processor, index):
    if processor.is_unknown(index):
        return 2
    if processor.is_control(index):
        return 3
    if processor.is_byte(index):
        return 6
    return 4 if processor.id_to_piece(index).startswith("<start") else 1


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_gives_the_same_ids(rebuilt, text):
    processor, tokenizer, _ = rebuilt
    assert tokenizer.encode(text, add_special_tokens=False).ids == processor.encode(text)
    assert tokenizer.decode(processor.encode(text)) == text


def test_special_tokens_are_matched_whole_and_bos_begins(rebuilt):
    processor, tokenizer, folder = rebuilt
    encoded = tokenizer.encode("<start_of_turn>the</s>")
    assert encoded.ids[0] == processor.bos_id()
    assert processor.piece_to_id("<start_of_turn>") in encoded.ids
    assert encoded.ids[-1] == processor.eos_id()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")


@pytest.mark.parametrize("pre", ["default", "llama-bpe", "qwen2", "smollm", "tekken", "gpt-4o"])
def test_byte_level_text_comes_back_whatever_the_cut(tmp_path_factory, pre):
    folder = tmp_path_factory.mktemp("bpe")
    made = json.loads(tiny.tokenizer().to_str())["model"]
    vocabulary = sorted(made["vocab"], key=made["vocab"].get)

    def keys(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(vocabulary)
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in made["merges"]])

    write_tokenizer(write(folder / "m.gguf", "llama", keys), folder, 512)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @given(st.text(max_size=60))
    @settings(max_examples=50)
    def check(text):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text

    check()


def test_digits_are_cut_as_trained():
    assert split_patterns("smollm")[0] == r"\p{N}"
    assert r"\p{N}{1,3}" in split_patterns("llama-bpe")[0]
    assert split_patterns("unheard-of") == split_patterns("default")


def test_a_vocabulary_of_another_kind_is_refused(tmp_path):
    model = write(tmp_path / "m.gguf", "llama", lambda writer: writer.add_tokenizer_model("bert"))
    with pytest.raises(UnsupportedModelError, match="tokenizer of kind 'bert'"):
        write_tokenizer(model, tmp_path, 512)


def test_a_repository_with_only_a_sentencepiece_file(hub, preparing, trained):
    _, processor = trained
    files = tiny.llama_files(vocab_size=360)
    del files["tokenizer.json"]
    files["tokenizer.model"] = processor.serialized_model_proto()
    files["tokenizer_config.json"] = (
        b'{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}'
    )
    hub.commit("tiny/spm", files)
    model = preparing("tiny/spm")
    built = Tokenizer.from_file(str(model.path / "tokenizer.json"))
    text = "the quick brown fox"
    assert built.decode(built.encode(text, add_special_tokens=False).ids).strip() == text
    assert {f.path: f.origin for f in model.manifest.files}["tokenizer.json"] == "built"
