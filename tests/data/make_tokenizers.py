# SPDX-License-Identifier: Apache-2.0
"""Trains one small tokenizer of every kind that kerf reads and records what transformers makes of 300 texts with it.

    python make_tokenizers.py [--output FOLDER]

Needs transformers, tokenizers, sentencepiece, safetensors and numpy; nothing is fetched. The published split patterns are
facts of the formats; the vocabularies are trained on the text in tests/data/text. Writes, beside itself or in FOLDER,

    tokenizers/KIND/               the files as a model folder has them; AutoTokenizer reads each
    golden/tokenizers.json         the texts, and for each kind what surrounds the ids and which texts decode to others
    golden/tokenizers.safetensors  for each kind the ids of all texts in one row, and KIND.ends: where each text's end
"""
import argparse
import io
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.tokenization_utils_base import generate_merges

HERE = Path(__file__).resolve().parent
VOCABULARY = 1200

# The split patterns, as the published tokenizer.json files have them.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

OTHER_SCRIPTS = """\
Der Übergang über die Brücke dauert fünf Minuten; größere Züge müssen warten. L'été dernier, nous étions à Besançon.
В начале было слово, и слово было у моря. Москва и Санкт-Петербург — два города. Η γλώσσα των αρχαίων Ελλήνων.
在这个世界上没有免费的午餐。机器学习模型可以压缩。日本語の文章はスペースがありません。東京都に住んでいます。한국어 문장도 있습니다.
هذه جملة باللغة العربية. זה משפט בעברית. यह हिन्दी में एक वाक्य है। ประโยคภาษาไทยไม่มีช่องว่าง
def main(argv):\n    for i in range(10):\n        print(f"{i:>4}", argv[i])\n    return 0\n
int main() { std::vector<int> v{1, 2, 3}; for (auto& x : v) x *= 2; return v[0]; }
"""


def training_lines():
    lines = (HERE / "text" / "wikitext2-valid-256k.txt").read_text(encoding="utf-8").split("\n")
    return [line for line in lines[:1500] if line.strip()] + OTHER_SCRIPTS.split("\n") * 30


# --- the texts ------------------------------------------------------------------------------------------------------

HANDWRITTEN = [
    "", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "a", "A", ".", "0", "Hello world", " Hello", "Hello ",
    "  two leading, two  inside, two trailing  ", "I'm you're we'll they'd it's don't I'VE YOU'RE ain'T", "it\u2019s",
    "don't\nwon't", "line\nline\r\nline\rline\n\n\nline", "\n leading newline", "trailing newline\n", "tab\tand\t\ttabs",
    "   \n   \n", "a\n \n b", "   indented\n\tby tabs\n        by eight", "1", "12", "123", "1234", "12345678901234567890",
    "3.14159 1,000,000 1e-5 0x1F 50% $9.99 #1", "١٢٣ ৪৫৬ ½ ² Ⅷ ①", "2024-01-31T12:34:56Z", "a1b2c3 x86_64 utf8",
    "e\u0301 cafe\u0301 caf\u00e9", "\u1e9b\u0323 \u01c4 \ufb01 \u00c5 \u212b \u2126", "\u0041\u030a\u0327", "\u0301 alone",
    "\u1100\u1161\u11a8 \uac01", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "\U0001f1e9\U0001f1ea flags \U0001f1ef\U0001f1f5", "\U0001f44d\U0001f3fd thumbs", "\u2764\ufe0f", "1\ufe0f\u20e3",
    "\u202eright to left\u202c", "zero\u200bwidth\u200cnon\u200djoiner", "\ufeffbyte order mark", "soft\u00adhyphen",
    "\x00", "a\x00b", "\x01\x02\x1f\x7f", "bell\x07 escape\x1b[0m", "\u0085next\u0085line", "\u2028separator\u2029", "\x0b\x0c",
    "\ufffd", "a\ufffdb", "\ufffd\ufffd", "\U000e0001", "\U0010ffff", "\ufdd0", "\u180e", "\u1680 ogham", "\u2581", "\u2581a\u2581 b",
    " \u2581 ", "\u0120 \u010a", "<0x0A>", "<0x41>", "<unk>", "<s>", "</s>", "<s>Hello</s>", "<pad>", "<bos>x<eos>",
    "<|endoftext|>", "a <|endoftext|> b", "<|endoftext|><|endoftext|>", "<|begin_of_text|>hi<|end_of_text|>",
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>", "<|reserved_special_token_7|>",
    "<|im_start|>system\nYou are kind.<|im_end|>\n", "<think>\n\n</think>\n\n", "<tool_call>{}</tool_call>",
    "<|user|>\nHi<|end|>\n<|assistant|>\n", "<|user|>   spaces<|end|>   ", "[INST] Hi [/INST] there</s>", "<start_of_turn>user\nHi<end_of_turn>\n",
    "<|end", "|endoftext|>", "<|endoftext", "<|ENDOFTEXT|>", "x<s", "[INST]", "[ INST]",
    "def f(x):\n    if x > 0:\n        return x ** 2\n\treturn None  # done", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "#include <vector>\n\nint main() {\n\treturn 0;\n}\n", "SELECT * FROM t WHERE a = 'b';", "<html><body class=\"x\">&amp;</body></html>",
    "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\\n\"}", "https://example.org/a/b?c=d&e=f#g", "C:\\Users\\x", "a/b//c///\n///",
    "!!!???...---===+++", "(((())))[[{{}}]]", "\u201cquoted\u201d \u2018single\u2019 \u2014 dash \u2026", "\u00bfQu\u00e9? \u00a1S\u00ed!", "\u20ac\u00a3\u00a5\u20bf",
    "camelCaseWord PascalCase SCREAMING_CASE kebab-case", "HTTPServerError XMLHttpRequest iOS", "\u01c5 titlecase \u02b0 modifier",
    "\u0130stanbul \u0131 \u00df \u1e9e", "na\u00efve r\u00e9sum\u00e9 co\u00f6perate", "Stra\u00dfe Gr\u00f6\u00dfe", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c", "\u30cf\u309a\u30d2\u3099 \uff8a\uff9f", "\uc548\ub155\ud558\uc138\uc694",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0",
    "\U00010348\U00020000\U0001d54f", "mixed \u4e2d\u6587 and English \u0438 \u0440\u0443\u0441\u0441\u043a\u0438\u0439", "\uff21\uff22\uff23 \uff11\uff12\uff13", "\u2460\u2461 \u33a1 \u2120",
    "a" * 700, "ab" * 300, "x" * 40 + " " + "y" * 40, " " * 5, " " * 16, " " * 17, " " * 24, " " * 31, " " * 400, "a" + " " * 60 + "b",
    "\n" * 50, "\t" * 33, " \n" * 30, "0" * 300, "1234567890" * 20, "." * 200, "\u4e2d" * 150, "\U0001f600" * 60, "e" + "\u0301" * 80,
    "donaudampfschifffahrtsgesellschaftskapit\u00e4n" * 8, "=" * 79 + "\n", "-" * 33 + "|" + "-" * 33, "\u2581" * 40, "< " * 50, "<s>" * 20,
]
PARTS = [
    "the ", "The", " of", " and", "ing", " compression", " Model", "quantisation", "'s", "'ll", "'D", " ", "  ", "    ", "\n",
    "\n\n", "\r\n", "\t", ".", ",", "!?", " - ", "\u2014", "(", ")", "[1]", "{", "}", "0", "7", "42", "1999", " 123456", "%",
    "\u00e9", "e\u0301", "\u00fc", "\u0434\u043e\u043c", "\u4e2d\u56fd", "\u65e5\u672c", "\ud55c\uad6d", "\u0639\u0631\u0628", "\u05e9", "\u0e44\u0e17\u0e22", "\U0001f600", "\u200d", "\ufe0f", "\u00a0", "\u2581",
    "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|eot_id|>", "<|end|>", "<unk>", "\x03", "\ufffd", "_", "/*", "*/", "==", "->",
    "self.", "return ", "HTTP", "x", "Y", "zz", "\u0130", "\u00df", "\u0301", "\u3000", "\u2028",
]


def all_texts():
    """300 texts: written by hand, drawn from PARTS, from real text, and random code points."""
    draw = random.Random(20240217)
    out = list(HANDWRITTEN)
    lines = [line.strip() for line in (HERE / "text" / "wikitext2-test-128k.txt").read_text(encoding="utf-8").split("\n")]
    lines = [line for line in lines if 20 < len(line) < 400]
    # Half a surrogate pair is no text: it arrives as U+FFFD, as files that hold one are read.
    broken = ["\ud83d", "a\ude00b", "\ud800\ud800", "x\udfff y"]
    out += [text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for text in broken]
    while len(out) < 230:
        out.append("".join(draw.choice(PARTS) for _ in range(draw.randrange(2, 30))))
    while len(out) < 265:
        text = draw.choice(lines)
        start = draw.randrange(0, len(text) // 2)
        out.append(text[start:start + draw.randrange(10, 240)])
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x900, 0xE00), (0x2000, 0x2070), (0x3040, 0x3100),
              (0x4E00, 0x5000), (0xAC00, 0xAD00), (0xFF00, 0xFFEF), (0x1F300, 0x1F650)]
    while len(out) < 300:
        low, high = draw.choice(ranges)
        out.append("".join(chr(draw.randrange(low, high)) if draw.random() < 0.8 else " " for _ in range(draw.randrange(1, 40))))
    return out


# --- the tokenizers -------------------------------------------------------------------------------------------------

def byte_level(pre_tokenizer, special, normalizer=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(training_lines(), trainer)
    return tokenizer


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def with_specials_behind(tokenizer, tokens):
    """Special tokens above the vocabulary, as the large families number them."""
    tokenizer.add_tokens(tokens)
    return tokenizer


def before(tokenizer, token):
    template = processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B:1",
                                             special_tokens=[(token, tokenizer.token_to_id(token))])
    return processors.Sequence([processors.ByteLevel(trim_offsets=True), template])


def special(content, **properties):
    return AddedToken(content, special=True, normalized=False, **properties)


def llama3():
    tokenizer = byte_level(split_then_bytes(LLAMA3), [], ignore_merges=True)
    named = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    names = named[:2] + [f"<|reserved_special_token_{i}|>" for i in range(250)] + named[2:]
    with_specials_behind(tokenizer, [special(name) for name in names])
    tokenizer.post_processor = before(tokenizer, "<|begin_of_text|>")
    return files(tokenizer, "llama", tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin_of_text|>",
                 eos_token="<|end_of_text|>")


def qwen():
    tokenizer = byte_level(split_then_bytes(QWEN), [], normalizers.NFC())
    with_specials_behind(tokenizer, [special(name) for name in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    with_specials_behind(tokenizer, [AddedToken(name, special=False, normalized=False)
                                     for name in ["<tool_call>", "</tool_call>", "<think>", "</think>"]])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return files(tokenizer, "qwen3", tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>",
                 pad_token="<|endoftext|>", bos_token=None, unk_token=None, add_bos_token=False, add_prefix_space=False)


def gpt_neox():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True),
                           [special("<|endoftext|>"), special("<|padding|>")], normalizers.NFC())
    with_specials_behind(tokenizer, [AddedToken(" " * n, special=False, normalized=True) for n in range(24, 1, -1)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return files(tokenizer, "gpt_neox", tokenizer_class="GPTNeoXTokenizer", bos_token="<|endoftext|>",
                 eos_token="<|endoftext|>", unk_token="<|endoftext|>", add_prefix_space=False)


def falcon():
    steps = [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
             pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]
    names = [">>TITLE<<", ">>ABSTRACT<<", "<|endoftext|>"]
    tokenizer = byte_level(pre_tokenizers.Sequence(steps), [special(name) for name in names])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return files(tokenizer, "falcon", tokenizer_class="PreTrainedTokenizerFast", eos_token="<|endoftext|>")


def digits_apart():
    """StarCoder, SmolLM, DeepSeek-Coder and others: every digit by itself, before GPT-2's pattern."""
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer = byte_level(pre_tokenizers.Sequence(steps), [special("<|endoftext|>"), special("<|im_start|>")])
    return files(tokenizer, "llama", tokenizer_class="PreTrainedTokenizerFast", bos_token="<|endoftext|>",
                 eos_token="<|endoftext|>", unk_token="<|endoftext|>")


def tekken():
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"] + [f"<SPECIAL_{i}>" for i in range(5, 20)]
    tokenizer = byte_level(split_then_bytes(TEKKEN), [special(name) for name in names], ignore_merges=True)
    tokenizer.post_processor = before(tokenizer, "<s>")
    return files(tokenizer, "mistral", tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>",
                 unk_token="<unk>")


def sentencepiece_model(kind, **options):
    out = io.BytesIO()
    settings = dict(vocab_size=VOCABULARY, model_type=kind, character_coverage=0.995, byte_fallback=True, split_digits=True,
                    normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
                    num_threads=1, minloglevel=2)
    settings.update(options)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(training_lines()), model_writer=out, **settings)
    return out.getvalue()


def pieces_of(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]


def pieces_bpe(model, **options):
    vocabulary = {piece: i for i, (piece, _) in enumerate(pieces_of(model))}
    return Tokenizer(models.BPE(vocab=vocabulary, merges=generate_merges(vocabulary), unk_token="<unk>", fuse_unk=True,
                                byte_fallback=True, **options))


LLAMA_DECODER = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]


def llama_json(model):
    """What transformers 4 wrote for LlamaTokenizer: the space in front is a normalizer."""
    tokenizer = pieces_bpe(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(LLAMA_DECODER + [decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tokenizer


LLAMA_CONFIG = dict(tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gemma(model, json_form):
    config = dict(tokenizer_class="GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>",
                  add_bos_token=True, add_eos_token=False)
    if not json_form:
        return raw_files(model, "gemma2", **config)
    tokenizer = pieces_bpe(model)
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(LLAMA_DECODER)
    tokenizer.add_special_tokens([special(name) for name in ["<pad>", "<eos>", "<bos>", "<unk>"]])
    tokenizer.add_special_tokens([special(name) for name in ["<start_of_turn>", "<end_of_turn>"]])
    tokenizer.add_tokens([AddedToken("\n" * n, special=False, normalized=False) for n in range(2, 9)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos>:1 $B:1",
                                                             special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))])
    return files(tokenizer, "gemma2", **config)


def phi3(model):
    tokenizer = llama_json(model)
    tokenizer.add_special_tokens([special("<|endoftext|>")] + [special(name, rstrip=True)
                                                               for name in ["<|assistant|>", "<|user|>", "<|system|>", "<|end|>"]])
    return files(tokenizer, "phi3", **{**LLAMA_CONFIG, "eos_token": "<|endoftext|>", "legacy": False})


def unigram_json(model):
    """As converters write sentencepiece's unigram models that have no table of character replacements."""
    tokenizer = Tokenizer(models.Unigram(pieces_of(model), unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace("\u2581", prepend_scheme="always")
    tokenizer.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)])
    return files(tokenizer, "", tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram_bytes_json(model):
    tokenizer = Tokenizer(models.Unigram(pieces_of(model), unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(LLAMA_DECODER + [decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    return files(tokenizer, "", tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def raw_files(model, model_type, **config):
    return {"tokenizer.model": model, **configs(model_type, config)}


def files(tokenizer, model_type, **config):
    document = json.loads(tokenizer.to_str())
    return {"tokenizer.json": compact(document), **configs(model_type, config)}


def configs(model_type, config):
    config = {**config, "clean_up_tokenization_spaces": False}
    return {"tokenizer_config.json": compact(config), "config.json": compact({"model_type": model_type} if model_type else {})}


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def all_tokenizers():
    llama = sentencepiece_model("bpe", user_defined_symbols=["[INST]", "[/INST]"])
    gemma_model = sentencepiece_model("bpe", add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>",
                                      eos_piece="<eos>", user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n\n", "  ", "   "])
    unigram = sentencepiece_model("unigram", byte_fallback=False)
    unigram_bytes = sentencepiece_model("unigram", remove_extra_whitespaces=True, user_defined_symbols=["[INST]", "==", "\u2581->"])
    return {
        "llama3": llama3(), "qwen2": qwen(), "gptneox": gpt_neox(), "falcon": falcon(), "digits": digits_apart(),
        "tekken": tekken(), "gemma": gemma(gemma_model, True), "gemma-model": gemma(gemma_model, False),
        "mistral": raw_files(llama, "llama", **LLAMA_CONFIG, legacy=False, add_bos_token=True),
        "llama-legacy": raw_files(llama, "llama", **LLAMA_CONFIG, legacy=True, add_bos_token=True, add_eos_token=True),
        "llama-json": files(llama_json(llama), "llama", **LLAMA_CONFIG, legacy=False),
        "mixtral": files(llama_json(llama), "mixtral", **LLAMA_CONFIG, legacy=True),
        "phi3": phi3(llama), "unigram": unigram_json(unigram), "unigram-bytes": unigram_bytes_json(unigram_bytes),
        "unigram-model": raw_files(unigram_bytes, "", tokenizer_class="PreTrainedTokenizerFast", add_bos_token=True),
    }


# --- what transformers makes of them --------------------------------------------------------------------------------

def surroundings(tokenizer, texts, plain):
    """What add_special_tokens puts around the ids: the same for every text."""
    whole = [tokenizer.encode(text) for text in texts]
    empty = tokenizer.encode("")
    for n in range(len(empty) + 1):
        if all(ids == empty[:n] + inside + empty[n:] for ids, inside in zip(whole, plain)):
            return {"before": empty[:n], "after": empty[n:]}
    raise SystemExit("the special tokens do not surround the text")


def record(folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    out = surroundings(tokenizer, texts, plain)
    decoded = [tokenizer.decode(ids) for ids in plain]
    skipped = [tokenizer.decode(ids, skip_special_tokens=True) for ids in plain]
    out["class"] = type(tokenizer).__name__
    out["vocabulary"] = len(tokenizer)
    # By the number of the text, where it is another: the decoded text, and that without special tokens.
    out["decoded"] = {str(i): d for i, (d, text) in enumerate(zip(decoded, texts)) if d != text}
    out["skipped"] = {str(i): s for i, (s, d) in enumerate(zip(skipped, decoded)) if s != d}
    return out, plain


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    texts = all_texts()
    assert len(texts) == 300 and all(text == text.encode().decode() for text in texts)
    golden, tensors = {"texts": texts, "tokenizers": {}}, {}
    for name, content in all_tokenizers().items():
        folder = arguments.output / "tokenizers" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in content.items():
            (folder / file).write_bytes(data)
        golden["tokenizers"][name], ids = record(folder, texts)
        tensors[name] = np.array([i for line in ids for i in line], dtype=np.int16)
        tensors[name + ".ends"] = np.cumsum([len(line) for line in ids]).astype(np.int32)
        print(name, golden["tokenizers"][name]["class"], golden["tokenizers"][name]["vocabulary"], sum(map(len, ids)))
    (arguments.output / "golden" / "tokenizers.json").write_bytes(compact(golden))
    save_file(tensors, arguments.output / "golden" / "tokenizers.safetensors")


if __name__ == "__main__":
    main()
