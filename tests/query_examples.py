"""Queries in many scripts with their tokens, for tests of all that splits queries."""
# ruff: noqa: RUF001

from __future__ import annotations

import unicodedata

EXAMPLES: list[tuple[str | bytes, list[str]]] = [
    ("Daft Punk", ["daft", "punk"]),
    ("AC/DC's", ["ac", "dc", "s"]),
    ("A$AP c+c =", ["a$ap", "c+c", "="]),
    ("  Björk —  Jóga (Live!) ", ["bjork", "joga", "live"]),
    ("Beyoncé BEYONCE\u0301 beyonce", ["beyonce"] * 3),
    ("Straße STRASSE ſ", ["strasse", "strasse", "s"]),
    ("İstanbul ISTANBUL ıstanbul", ["istanbul"] * 3),
    ("Røyksopp Łona Ætla Œuvre", ["royksopp", "lona", "aetla", "oeuvre"]),
    ("Đorđe Þór Ħal Ŧ", ["dorde", "thor", "hal", "t"]),
    ("Tiếng Việt", ["tieng", "viet"]),
    ("ＡＢＣ　１２３ ﬁn ² Ⅳ ™", ["abc", "123", "fin", "2", "iv", "tm"]),
    ("𝓑𝓮𝔂", ["bey"]),
    ("ΣΊΣΥΦΟΣ Σίσυφος", ["σισυφοσ"] * 2),
    ("Кино — Группа Крови", ["кино", "группа", "крови"]),
    ("Ёлка ЙОД ім'я імʼя", ["елка", "иод", "ім", "я", "ім", "я"]),
    ("שָׁלוֹם שלום", ["שלום"] * 2),
    ("مُحَمَّد محمد محـمد أم", ["محمد", "محمد", "محمد", "ام"]),
    ("\u200fعمرو\u200e دياب", ["عمرو", "دياب"]),
    ("٢٠٢٤ ۲۰۲۴ २०२४", ["2024"] * 3),
    ("हिन्दी गाने", ["हिन्दी", "गाने"]),
    ("क़लम \u0915\u093c\u0932\u092e", ["\u0915\u093cलम"] * 2),
    ("क्\u200dष क्ष", ["क्ष"] * 2),
    ("ಕೋಟಿ \u0c95\u0cc6\u0cc2\u0cd5\u0c9f\u0cbf", ["ಕೋಟಿ"] * 2),
    ("தமிழ் பாடல்", ["தமிழ்", "பாடல்"]),
    ("방탄소년단 노래", ["방탄소년단", "노래"]),
    (unicodedata.normalize("NFD", "방탄소년단 각"), ["방탄소년단", "각"]),
    ("ㅋㅋ", ["\u110f\u110f"]),
    ("宇多田", ["宇", "多", "田", "宇多", "多田"]),
    ("歌", ["歌"]),
    ("周杰伦 七里香", ["周", "杰", "伦", "七", "里", "香", "周杰", "杰伦", "七里", "里香"]),
    ("周、杰 伦", ["周", "杰", "伦"]),  # no pair across what separates
    ("𠮷野家", ["𠮷", "野", "家", "𠮷野", "野家"]),
    ("葛\U000e0100城", ["葛", "城", "葛城"]),  # a variant of a character
    ("人々の", ["人", "々", "の", "人々", "々の"]),
    ("きゃりー", ["き", "ゃ", "り", "ー", "きゃ", "ゃり", "りー"]),
    ("ｶﾞﾝﾀﾞﾑ", ["ガ", "ン", "ダ", "ム", "ガン", "ンダ", "ダム"]),
    ("か\u3099 か゛ が", ["が"] * 3),
    ("に゛ は", ["に\u3099", "は"]),  # no letter of its own, but one character
    ("がは", ["が", "は", "がは"]),
    (
        "宇多田ヒカル First Love",
        [*"宇多田ヒカル", "first", "love", "宇多", "多田", "田ヒ", "ヒカ", "カル"],
    ),
    ("KPOP热歌2024", ["kpop", "热", "歌", "2024", "热歌"]),
    ("B'z・24時間", ["b", "z", "24", "時", "間", "時間"]),
    ("เพลงรัก", ["เ", "พ", "ล", "ง", "รั", "ก", "เพ", "พล", "ลง", "งรั", "รัก"]),
    ("ที่ ท\u0e48\u0e35", ["ที่", "ท\u0e48\u0e35"]),  # two spellings, and Unicode's two strings
    ("ดุ้ ด\u0e49\u0e38", ["ดุ้", "ดุ้"]),  # the same string for Unicode
    ("ເພງ", ["ເ", "ພ", "ງ", "ເພ", "ພງ"]),
    ("ខ្មែរ", ["ខ្", "មែ", "រ", "ខ្មែ", "មែរ"]),
    ("မြန်", ["မြ", "န်", "မြန်"]),
    ("ក\u200bខ", ["ក", "ខ"]),  # a zero-width space
    ("happy 🎵 songs", ["happy", "🎵", "songs"]),
    ("I♥NY 🎵🎶", ["i", "♥", "ny", "🎵", "🎶"]),
    ("❤ ❤\ufe0f ❤\ufe0e", ["❤"] * 3),
    ("👩‍🎤👩🏽‍🎤👍🏿", ["👩‍🎤", "👩🏽‍🎤", "👍🏿"]),
    ("❤\ufe0f‍🔥", ["❤‍🔥"]),
    ("🇯🇵🇰🇷 🇫🇷🇩", ["🇯🇵", "🇰🇷", "🇫🇷", "🇩"]),
    ("🏴\U000e0067\U000e0062\U000e007f", ["🏴\U000e0067\U000e0062\U000e007f"]),
    ("1\ufe0f⃣", ["1"]),
    ("日本🇯🇵の歌🎵", ["日", "本", "🇯🇵", "の", "歌", "🎵", "日本", "の歌"]),
    ("soft\u00adhyphen z\u200dw\u200cj", ["softhyphen", "zwj"]),
    ("\ufefftab\tline\nfeed\u00a0no\u3000wide\0nul", ["tab", "line", "feed", "no", "wide", "nul"]),
    ("……!? ^_^ \u0301", []),
    ("\u3099", ["\u3099"]),  # a mark of nothing
    ("a\ue000b", ["a", "b"]),  # for private use
    (" \t\n\u3000", []),
    ("", []),
    (b"ab\xffcd", ["ab", "cd"]),
    (b"\xff\xfe", []),
    (b"caf\xc3", ["caf"]),  # broken off inside a character
    (b"\xe5\xae\xe5\xa4\x9a", ["多"]),
    (b"\xed\xa0\x80 x", ["x"]),  # a surrogate, which UTF-8 has none of
]
