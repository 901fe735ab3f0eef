"""probe_texts(): 200 short texts of many scripts and kinds, on which two tokenizers are compared."""

# ruff: noqa: RUF001 (letters of other scripts that look like Latin ones are wanted here)

import unicodedata
from collections.abc import Callable

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.", "I can't believe it's 9.50 already, isn't it?",
    "Café déjà-vu, naïve façade, Noël à Orléans", "Größe, Straße und Übermut für Käthe",
    "El niño comió piñas en la montaña; ¿por qué?", "São João não está aqui, amanhã talvez",
    "Zażółć gęślą jaźń w Łodzi", "Příliš žluťoučký kůň úpěl ďábelské ódy", "İstanbul'da ışıklar ve çığlık",
    "Việt Nam có nhiều món ăn ngon", "Быстрая коричневая лиса прыгает, ёжик!", "Їжак і ґудзик, об'єкт",
    "Η γρήγορη αλεπού πηδάει πάνω από τον σκύλο", "השועל החום המהיר קופץ", "الثعلب البني السريع يقفز فوق الكلب",
    "مَرْحَبًا بِالعَالَمِ", "سلام دنیا، حال شما چطور است؟", "नमस्ते दुनिया, आप कैसे हैं?", "স্বাগতম পৃথিবী",
    "வணக்கம் உலகம்", "สวัสดีชาวโลก วันนี้อากาศดี", "ສະບາຍດີຊາວໂລກ", "မင်္ဂလာပါကမ္ဘာလောက", "გამარჯობა მსოფლიო",
    "Բարեւ աշխարհ", "ሰላም ልዑል", "敏捷的棕色狐狸跳过了懒狗。", "今天天气怎么样？我很好,谢谢", "繁體中文測試：臺灣",
    "すばやい茶色の狐はのろまな犬を飛び越える", "カタカナとひらがな、漢字ＡＢＣ１２３",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다",
    "Great 👍🏽 film 😂😂 ❤️ 👨‍👩‍👧‍👦 🇩🇪", "ﬁne ﬂow ½ ² ™ № Ⅷ ①", "e\u0301cole a\u0308pfel n\u0303 o\u0302\u0323",
    "zero\u200bwidth soft\u00adhyphen no\u00a0break \ufeffmark", "control \x00\x01\x07\x1b\x7f\x85 characters\r\n",
    "tab\tnew\nline  two   three    spaces ", "def f(x): return {'a': [x**2, None]}  # comment",
    "SELECT * FROM t WHERE id <> 42 AND name LIKE '%x_y%';", "<div class=\"a b\">&nbsp;&lt;br/&gt;</div>",
    "https://www.example.com/a/b?c=d&e=%20f#g and mail@example.org",
    "C:\\Users\\me\\file.txt /usr/local/bin -rf --help",
    "1,234,567.89 €50 $3.99 £7 -0.5e-10 0xFF 12:30 2026-11-27", "ERR_4711: KX-200/B v1.2.3-rc4+build.5 @host:8080",
    "[CLS] text [SEP] other [MASK] [PAD] [UNK]", "<s> text </s> <mask> <pad> <unk> <|endoftext|>",
    "a" * 130, "Donaudampfschifffahrtsgesellschaftskapitän" * 3, "𝕬𝖇𝖈 𝒳 \U00010348 \U000e0041 \ufffd",
)  # fmt: skip
FORMS: tuple[Callable[[str], str], ...] = (
    str,
    lambda text: f"{text.upper()}!?",
    lambda text: unicodedata.normalize("NFD", f"«{text}»"),
    lambda text: f"  ({text.lower()}), {text[:7]}",
)


def probe_texts() -> list[str]:
    """Return the texts: each sentence as it is, in capitals, decomposed (NFD), and in small letters after spaces."""
    return [form(sentence) for form in FORMS for sentence in SENTENCES]
