#!/usr/bin/env python3
"""Writes the tokenizer fixtures and their golden ids.

  python3 -m venv V && V/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3
  cd tokenizer/testdata && V/bin/python make_tokenizers.py

Everything is trained on the text below and on words made up here; the ids and
pieces are those of the two libraries. <name>.json is a tokenizer.json,
sentencepiece.json a vocabulary with scores, golden.json the ids and texts,
pieces.json how the split patterns cut.
"""
import io
import json
import random

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# llama.cpp's order of expressions for a GGUF that names no pre-tokenizer.
DEFAULT = [r"[\p{P}\$\+<=>\^~\|]+", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)", r"\p{N}+", r"[0-9][0-9][0-9]"]

PROSE = """
The river turned slowly below the town, and nobody asked where it went. In the
morning the bakers opened their doors; by noon the square was full of carts,
dogs, children and their questions. "Don't you remember?" she said. "I'll tell
you again: we've walked this road before, and it wasn't any shorter then."
He's sure that they're late. I'm not. You'd better hurry, DON'T WAIT, IT'S LATE!
A sparse matrix keeps what matters: values, and where they are. In 2024 there
were 365 or 366 days, 1,234,567 grains, 3.14159 and 2.71828 of them special.
def add(a, b):
    return a + b

for (int i = 0; i < 10; i++) { printf("%d\\n", i); }
    if x == None:\n\n        pass\n\t\tindented = {"key": [1, 2, 3]}
http://example.com/path?query=1&other=2#part   three   spaces    four
Der Fluss fließt über Köln; die Straße ist schön und größer als früher.
L'été dernier, nous sommes allés à la plage où il faisait très chaud.
Река медленно течёт мимо города, и никто не спрашивает куда. 河はゆっくりと町の下を流れた。
日本語と中文字符混在する文章。 한국어 문장도 있습니다. العربية من اليمين إلى اليسار. עברית גם כן.
हिन्दी में एक वाक्य। ไทยไม่มีช่องว่าง naïve café résumé 🙂🙂 👩‍👩‍👧 🇫🇷
"""

rng = random.Random(1)


def made_up(n):
    onset, vowel, coda = "b br c d dr f g h k l m n p pl r s st t tr v w".split(), "a e i o u ai ea ou".split(), ["", "", "n", "r", "s", "t", "ng"]
    lexicon = ["".join(rng.choice(onset) + rng.choice(vowel) + rng.choice(coda) for _ in range(rng.choice([1, 1, 2, 2, 3]))) for _ in range(400)]
    lines = []
    for _ in range(n):
        words = [lexicon[min(int(rng.expovariate(0.02)), 399)] for _ in range(rng.randrange(4, 16))]
        if rng.random() < 0.3:
            words.insert(rng.randrange(len(words)), str(rng.randrange(10 ** rng.randrange(1, 8))))
        lines.append(" ".join(words).capitalize() + rng.choice([".", "!", "?", "...", ";\n"]))
    return lines


TEXT = PROSE.split("\n") * 8 + made_up(1500)

NASTY = [
    "", " ", "  ", "   x", "x   ", "\n", "\n\n\n", " \n", "\n ", " \n \n x", "\t\ttabs\t and \r\n mixed\r\rlines \n\n  end \n",
    "Hello, world!", "don't DON'T Don'T I'LL i'll we've WE'VE they'RE he'd HE'D it's IT'S I'm 'tis 'S 's 'll '", "'\u017fa it'\u017f x'\u212a",
    "1 12 123 1234 12345678 3.14159 1,234,567 ٣٤٥ ½ Ⅷ ² x2y3 a1b22c333", "the 2024 year", "１２３４ full width",
    "naïve café résumé", "nai\u0308ve cafe\u0301 re\u0301sume\u0301", "\u1e9b\u0323 ﬁne ℌ Å", "日本語 テキスト　全角空白", "中文字符，标点。", "한국어 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "العربية من اليمين", "עברית שָׁלוֹם", "हिन्दी क्षत्रिय", "ไทยไม่มีช่องว่าง", "🙂 🙂🙂 👩‍👩‍👧‍👦 🇫🇷 👍🏽 ❤️", "\u200b\u200d\ufeff zero width", "a\u00a0b\u2003c\u3000d\u2028e\u0085f",
    "a\u0000b\u0001\u007f", "\U0010ffff\ue000", "e" + "\u0301" * 20 + " zalgo", "x" * 300, "ab" * 150, "Aa" * 60, "the" * 100, " " * 100, "\n" * 50, "!" * 70, "a b" * 40,
    "<|begin|>user<|end|>", "<|begin|> user <|end|> \n<|end|>", "<|begin", "<|<|begin|>|>", "text<|pad|>", "  <|begin|>  both  <|end|>  ", "KEEP keep keeper aKEEP KEEP's (KEEP) KEEP",
    "<mask> x <mask>y", "x <mask> y", "x  <mask>  y", "<0x41> <0x0A>", "▁ ▁▁ a▁b", "Ġ Ċ Ġa", "<s> </s> <unk>",
    "def f(x):\n    return x*2  # comment\n\n\nclass A:\n\tpass", "for (;;) { i++; }\r\n", "http://a.b/c?d=e&f=%20#g", "$100 €5 £3 ~ ^ | + = < >", "a/b//c\n/\n/ x", "...\n\n...", "snake_case camelCase PascalCase HTTPServer iOS eBay ǅ ǆ ʰ ª",
    "The river turned slowly below the town.", " leading", "trailing ", "tab\tx", "mixed \t \n \t x", "\u00a0 nbsp start", "İstanbul ΣΑΣ ß ﬀ",
]


def random_strings(n):
    atoms = ["a", "B", "the", "'s", "'LL", "'", "1", "23", " ", "  ", "\n", "\r\n", "\t", ".", "!?", "/", "é", "e\u0301", "日", "🙂", "\u200d", "٣", "²", "\u00a0", "Ж", "ß", "ǅ", "ʰ", "_", "$", "<|end|>", "▁"]
    return ["".join(rng.choice(atoms) for _ in range(rng.randrange(1, 14))) for _ in range(n)]


CASES = NASTY + random_strings(60)
BYTES = pre_tokenizers.ByteLevel.alphabet()


def train(tok, size, special, alphabet):
    tok.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False))
    return tok


def save(name, tok, old_merges=False, edit=lambda j: None):
    j = json.loads(tok.to_str())
    if old_merges:
        j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
    edit(j)
    text = json.dumps(j, ensure_ascii=old_merges, separators=(",", ":"))
    with open(name + ".json", "w") as f:
        f.write(text + "\n")
    print(name, len(text), "bytes")
    return Tokenizer.from_str(text)


def decode(tok, ids):
    """tok.decode, but an added café is its text as it is: the library sends it
    through the byte-level decoder, which spoils the é."""
    cafe = tok.token_to_id("café")
    if cafe not in ids:
        return tok.decode(ids, skip_special_tokens=False)
    at = ids.index(cafe)
    return tok.decode(ids[:at], skip_special_tokens=False) + "café" + decode(tok, ids[at + 1:])


def golden(tok):
    rows = []
    for s in CASES:
        ids = tok.encode(s).ids
        rows.append({"text": s, "ids": ids, "decoded": decode(tok, ids)})
    return rows


def make():
    out = {}
    special = ["<|begin|>", "<|end|>", "<|pad|>"]

    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    out["gpt2"] = golden(save("gpt2", train(t, 1000, special, BYTES), old_merges=True))

    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, 1500, special, BYTES)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 0)])])

    def words(j):  # whole words without merges to them: only ignore_merges finds them
        for w in ["Ġslowlyish", "camelCase", "ĠDON", "1234", "123"]:
            if w not in j["model"]["vocab"]:
                j["model"]["vocab"][w] = len(j["model"]["vocab"])
    out["llama3"] = golden(save("llama3", t, edit=words))

    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, 1200, special, BYTES)
    t.add_tokens([AddedToken("KEEP", single_word=True), AddedToken("<mask>", lstrip=True, special=True), AddedToken("café", normalized=True)])
    out["qwen2"] = golden(save("qwen2", t, old_merges=True))

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    # Without all bytes, as SmolLM2: some are dropped, here with an unk.
    train(t, 1100, special, [c for c in BYTES if c not in "õö÷øùúûüýþÿÀÁ"])
    out["digits"] = golden(save("digits", t))

    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(TEKKEN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, 1100, ["<unk>"] + special, [c for c in BYTES if c not in "õö÷øùúûüýþÿÀÁ"])
    out["tekken"] = golden(save("tekken", t))

    # Llama 2 in its tokenizer.json form: no pre-tokenizer, byte fallback.
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    byte_tokens = ["<0x%02X>" % b for b in range(256)]
    train(t, 1400, ["<unk>", "<s>", "</s>"] + byte_tokens, "▁")
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)])

    def rare(j):
        j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
        # Few runes, so that bytes are needed.
        drop = set("日本語中文한국어") & set(j["model"]["vocab"])
        j["model"]["merges"] = [m for m in j["model"]["merges"] if not drop & set("".join(m))]
    out["llama2"] = golden(save("llama2", t, edit=rare))

    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace(prepend_scheme="first")
    train(t, 800, ["<unk>"] + special, "")
    t.add_tokens([AddedToken("<mask>", rstrip=True, special=True), AddedToken("keep", normalized=True), AddedToken("river", single_word=True)])
    out["metaspace"] = golden(save("metaspace", t))

    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=False)])
    t.decoder = decoders.Fuse()
    out["words"] = golden(save("words", train(t, 600, ["<unk>"] + special, "")))

    for rows in out.values():
        assert len(rows) == len(CASES)
    texts = [r["text"] for r in out["gpt2"]]
    with open("golden.json", "w") as f:
        head = {"texts": texts, "tokenizers": {k: {"ids": [r["ids"] for r in v], "decoded": [None if r["decoded"] == r["text"] else r["decoded"] for r in v]} for k, v in out.items()}}
        json.dump(head, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def make_sentencepiece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([s for s in TEXT if s.strip()]), model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True,
        character_coverage=0.995, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    n = sp.get_piece_size()
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
    texts = [s for s in CASES if "\0" not in s]
    j = {"tokens": [sp.id_to_piece(i) for i in range(n)], "scores": [sp.get_score(i) for i in range(n)], "types": [kind(i) for i in range(n)],
         "texts": texts, "ids": [sp.encode(s) for s in texts], "decoded": [sp.decode(sp.encode(s)) for s in texts]}
    with open("sentencepiece.json", "w") as f:
        json.dump(j, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def make_pieces():
    texts = NASTY + random_strings(600)
    split = lambda *rs: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r), "isolated") for r in rs])
    names = {"gpt-2": split(GPT2), "llama-bpe": split(LLAMA3), "qwen2": split(QWEN2), "tekken": split(TEKKEN), "smollm": split(r"\p{N}", GPT2), "default": split(*DEFAULT)}
    # Lengths in runes, not the pieces themselves: the file stays small.
    rows = {k: [[len(p) for p, _ in t.pre_tokenize_str(s)] for s in texts] for k, t in names.items()}
    with open("pieces.json", "w") as f:
        json.dump({"texts": texts, "pieces": rows}, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


make()
make_sentencepiece()
make_pieces()
