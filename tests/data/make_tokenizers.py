#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains a small tokenizer of each published kind and writes what transformers makes of 300 texts with it.

Needs transformers, tokenizers and sentencepiece. Writes tests/data/tokenizers/KIND/ and
tests/data/golden/tokenizer-families.json: {"texts": [...], "families": {KIND: {"ids": [[...]], "ids_no_special": [[...]],
"decoded": [...]}}}; a null in "decoded" stands for the text itself. The published split patterns are facts of the formats;
the vocabularies are trained on the text in tests/data/text.
"""
import json
import random
import shutil
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

DATA = Path(__file__).resolve().parent
OUT = DATA / "tokenizers"
CORPUS = DATA / "text" / "wikitext2-valid-256k.txt"
VOCABULARY = 1000

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SAMPLES = [
    "", " ", "  ", "\n", "\r\n", "\t", "a", "Hello, world!", " leading", "trailing ", "two  spaces", "   three in front",
    "I'm you're WE'LL They'D it'S don't", "1 12 123 1234 12345 1234567890 3.14159 1,000,000", "naïve café résumé Ångström",
    "e\u0301 o\u0308 n\u0303 \u1e9b\u0323", "Привет, мир! Как дела?", "你好,世界。今天天气很好。", "日本語のテキストです", "한국어 텍스트",
    "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "👋🌍 👩‍👩‍👧‍👦 🇩🇪 👍🏽", "def f(x):\n    return x ** 2  # square\n",
    "if (a<=b && c!=d) { x += y->z; }", "https://example.org/a?b=c&d=%20e#f", "user@example.org", "C:\\temp\\file.txt",
    "a\u00a0b\u2003c\u3000d", "zero\u200bwidth\ufeffmarks", "\u0000\u0001\u001f control", "\u2028 \u2029 separators", "…—–“quotes”‘x’",
    "½ ² ③ Ⅳ ﬁ ﬂ", "A" * 200, "ab" * 300, "0" * 50, " " * 40 + "x", "\n" * 12, "word " * 60, "!?" * 40, "...,,,;;;:::---___",
    "<s>not special here</s>", "<unk>", "<|endoftext|>", "<|end|>", "<bos>", "<start_of_turn>user\nHi<end_of_turn>\n",
    "<|im_start|>system\nYou are kerf.<|im_end|>\n", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "text<|endoftext|>text", " <|im_end|> ", "\u2581already\u2581metaspace", "\u2581", "İstanbul ıI ß ẞ ǅ", "\ufffd replacement",
    "\U0001f9e0\U00010348\U0002070e", "tab\tand\nnewline\r\nmix\r", "CamelCaseAndsnake_case-and-kebab", "#hashtag @mention $100 50%",
    "1st 2nd 3rd 4th", "x²+y³=z⁴", "'quoted' 's 'S", "  \n  \n\t\n", "line one\n\n\nline two", "emoji😀in😀word",
]


def texts():
    """The samples, and pieces of the corpus cut, joined and mangled; 300 in all, always the same."""
    draw = random.Random(0)
    corpus = (DATA / "text" / "wikitext2-test-128k.txt").read_text()
    out = list(SAMPLES)
    joiners = [" ", "  ", "\n", "\n\n", "", "\t", "\r\n", " \n "]
    while len(out) < 300:
        begin = draw.randrange(len(corpus) - 400)
        piece = corpus[begin:begin + draw.randrange(5, 160)]
        kind = len(out) % 5
        if kind == 1:
            piece = piece.upper() if draw.random() < 0.5 else piece.title()
        elif kind == 2:
            piece = draw.choice(joiners).join(piece.split())
        elif kind == 3:
            piece += draw.choice(joiners) + draw.choice(SAMPLES)[:80]
        elif kind == 4:
            at = draw.randrange(len(piece))
            piece = piece[:at] + chr(draw.choice([0x301, 0x200d, 0x4e2d, 0x1f600, 0xe9, 0x0a, 0x3000, 0x7f, 0x0939])) + piece[at:]
        out.append(piece)
    return out


def byte_level(pattern=None):
    if pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained_bytes(pre, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train([str(CORPUS)], trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False,
                                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def special(tokenizer, names):
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def llama3():
    tokenizer = trained_bytes(byte_level(LLAMA3), ignore_merges=True)
    special(tokenizer, ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4)),
                        "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1",
                                      special_tokens=[(begin, tokenizer.token_to_id(begin))])])
    return tokenizer, {"bos_token": begin, "eos_token": "<|end_of_text|>"}


def qwen2():
    tokenizer = trained_bytes(byte_level(QWEN2), normalizers.NFC())
    special(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, {"bos_token": None, "eos_token": "<|im_end|>"}


def gptneox():
    tokenizer = trained_bytes(byte_level(), normalizers.NFC())
    special(tokenizer, ["<|endoftext|>", "<|padding|>"])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])  # as Pythia has them
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def save(kind, tokenizer, config):
    folder = OUT / kind
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))


def sentencepiece_model(file, **options):
    sentencepiece.SentencePieceTrainer.train(
        input=str(CORPUS), model_prefix=str(file.with_suffix("")), model_type="bpe", vocab_size=VOCABULARY,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2, max_sentence_length=100000, **options)
    file.with_suffix(".vocab").unlink()


def gemma():
    """The file that Gemma is published with, and the tokenizer.json that transformers makes of it."""
    folder = OUT / "gemma-model"
    folder.mkdir(parents=True)
    sentencepiece_model(folder / "tokenizer.model", add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
                        pad_piece="<pad>", bos_piece="<bos>", eos_piece="<eos>", unk_piece="<unk>",
                        user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n\n", "  ", "   "])
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>",
              "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(OUT / "gemma")
    for file in (OUT / "gemma").iterdir():
        if file.name not in ("tokenizer.json", "tokenizer_config.json"):
            file.unlink()


def mistral():
    """Llama's class without its legacy behaviour, as Mistral and Mixtral are published."""
    folder = OUT / "mistral"
    folder.mkdir(parents=True)
    sentencepiece_model(folder / "tokenizer.model", add_dummy_prefix=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False,
         "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}))


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    for make in (llama3, qwen2, gptneox):
        save(make.__name__, *make())
    gemma()
    mistral()
    golden = {"texts": texts(), "families": {}}
    for folder in sorted(OUT.iterdir()):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in golden["texts"]]
        decoded = [tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) for ids in plain]
        golden["families"][folder.name] = {
            "ids": [tokenizer(text)["input_ids"] for text in golden["texts"]], "ids_no_special": plain,
            "decoded": [None if back == text else back for back, text in zip(decoded, golden["texts"])]}
    file = DATA / "golden" / "tokenizer-families.json"
    file.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
