"""Whether a reply says anything that is worth being recalled later.

A reply that repeats what was recalled for it, or says that the staff member does not know, is no evidence: after some
of them, they would stand before what the user told. Such a reply is saved like any other, and is not made searchable.
"""

import re
from collections.abc import Iterable

from staffstream.support.tokens import count_tokens

_FEW_NEW_WORDS = 0.25  # share of a reply's different words; "Your code is 4711." adds one or two to what was recalled
_SHORT_TOKENS = 80  # a longer reply that begins with "I don't know" goes on with something

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_NOT_KNOWING = re.compile(
    "|".join(
        (
            r"\b(?:do|did|does) ?(?:n['’]t|not) (?:know|recall|remember|have (?:any |that |this )?"
            r"(?:information|info|record|memory|memories|details|notes))",
            r"\bI(?:['’]m| am) (?:not sure|unsure)|\bno idea\b",
            r"\bI (?:can(?:not|['’]t)|could(?:n['’]t| not)) (?:recall|find)",
            r"\byou (?:have(?:n['’]t| not)|did(?:n['’]t| not)|never) (?:\w+ )?(?:told|tell|mentioned?|said|shared?)",
            r"\bI know nothing\b|\bweiß (?:\w+ ){0,2}nicht|\bkeine (?:Information|Ahnung|Angaben)",
            r"\bne (?:le |la )?sais pas|\baucune (?:information|idée)|\bpas d['’]information",
            r"\bno (?:lo |la )?sé\b|\bno tengo (?:\w+ )?información|\bno recuerdo",
            r"\bnon (?:lo |la )?so\b|\bnon ho informazioni|\bnon ricordo",
            r"\bnão (?:o |a )?sei\b|\bnão tenho (?:\w+ )?informaç|\bnão me lembro",
            r"\bweet (?:\w+ ){0,2}niet|\bgeen (?:informatie|idee)",
            r"\bvet (?:inte|ikke)|\bved (?:\w+ )?ikke|\bingen (?:information|informasjon)|\ben tiedä",
            r"\bnie (?:wiem|pamiętam)|\bnie mam (?:\w+ )?informacji",
            r"\bне (?:знаю|помню)|\bнет информации|\bnevím\b",
            r"bilmiyorum|bilgim yok|không (?:biết|có thông tin)|tidak tahu",
            r"لا أعرف|لا أعلم|ليس لدي معلومات|לא יודע|אין לי מידע|नहीं (?:पता|जानत)|जानकारी नहीं",
            r"わかりません|分かりません|知りません|情報がありません|覚えていません",
            r"不知道|不清楚|不记得|沒有.{0,6}資訊|没有.{0,6}信息|모르|알지 못|정보가 없|기억나지",
            r"ไม่ทราบ|ไม่รู้|ไม่มีข้อมูล",
        )
    ),
    re.IGNORECASE,
)


def adds_nothing(reply: str, known: Iterable[str]) -> bool:
    """Whether a reply adds nothing to what was known before it: the question and what was recalled."""
    if count_tokens(reply) <= _SHORT_TOKENS and _NOT_KNOWING.search(reply):
        return True
    words = _split(reply)
    before = {word for text in known for word in _split(text)}
    return bool(words) and len(words - before) / len(words) <= _FEW_NEW_WORDS


def _split(text: str) -> set[str]:
    """The words of a text; in scripts without blanks its pairs of characters."""
    found: set[str] = set()
    for word in _WORD.findall(text.casefold()):
        if _UNSPACED.search(word) and len(word) > 1:
            found.update(word[start : start + 2] for start in range(len(word) - 1))
        else:
            found.add(word)
    return found
