"""What single languages need beyond the rules of English, from libraries that are installed for them only."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from xlcore.errors import TokenizerError
from xlcore.tokenizers.perl_properties import NONBREAKING_PREFIXES, NUMERIC_PREFIXES, OTHER_LANGUAGES

_MODULES = {"zh": "jieba", "ja": "Mykytea", "th": "pythainlp.tokenize"}

#: Where KyTea's own installation puts its model, and XLM looks for it.
KYTEA_MODEL = "local/share/kytea/model.bin"

#: Hangul, which Moses counts as letters in Korean text only.
_HANGUL = (
    "1100-11FF 3001-3003 3008-3011 3013-301F 302E-3030 3037 30FB 3131-318E 3200-321E 3260-327E A960-A97C AC00-D7A3 "
    "D7B0-D7C6 D7CB-D7FB FE45-FE46 FF61-FF65 FFA0-FFBE FFC2-FFC7 FFCA-FFCF FFD2-FFD7 FFDA-FFDC"
)


def moses_rules(lang: str) -> dict[str, Any]:
    """Return the arguments of `MosesTokenizer` that a language needs: its abbreviations, from sacremoses, and letters.

    Raises:
        TokenizerError: where sacremoses, which has the lists, is not installed.
    """
    if lang not in OTHER_LANGUAGES.split():
        return {}
    if lang == "ko":  # Moses has no list for it, and takes the English one
        english = {"prefixes": NONBREAKING_PREFIXES["en"].split(), "numeric_prefixes": NUMERIC_PREFIXES["en"].split()}
        return english | {"letters": _HANGUL}
    try:
        from sacremoses.corpus import NonbreakingPrefixes
    except ImportError as error:
        raise TokenizerError(
            f"XLMTokenizer: lang {lang!r} must have sacremoses installed, whose abbreviations it needs, got none; "
            "pip install sacremoses"
        ) from error
    lines = list(NonbreakingPrefixes().words(lang))
    numeric = [line.rpartition(" ")[0] for line in lines if line.endswith("#NUMERIC_ONLY#")]
    return {"prefixes": [*lines, *numeric], "numeric_prefixes": numeric}


def segmenter(lang: str) -> Callable[[str], Sequence[str]]:
    """Return the function that splits text of a language into words: jieba (zh), KyTea (ja), PyThaiNLP (th).

    Raises:
        TokenizerError: names the extra to install where the library is missing.
    """
    try:
        module: Any = import_module(_MODULES[lang])
    except ImportError as error:
        raise TokenizerError(
            f"XLMTokenizer: lang {lang!r} must have {_MODULES[lang].split('.')[0]} installed, got none; "
            f'pip install "xlbridge[{lang}]", or pass segmenters={{{lang!r}: ...}}'
        ) from error
    if lang == "zh":
        module.setLogLevel("WARNING")
        return lambda text: list(module.cut(text))
    if lang == "th":
        return lambda text: list(module.word_tokenize(text))
    model = Path.home() / KYTEA_MODEL
    if not model.is_file():
        raise TokenizerError(f"XLMTokenizer: lang 'ja' must have KyTea's model at {model}, got no such file")
    kytea: Any = module.Mykytea(f"-model {model}")
    return lambda text: list(kytea.getWS(text))
