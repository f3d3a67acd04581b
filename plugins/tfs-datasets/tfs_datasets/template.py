r"""Templates of documents: text with keys in braces, such as "{role}: {content}\n"."""

import json
from string import Formatter


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """Return the parts of a template as (text, the key after it or None). The empty key stands for the value itself.

    Raises ValueError when the braces do not match, or there is no key.
    """
    shown = json.dumps(template, ensure_ascii=False)
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {shown} is invalid: {error}. Write {{{{ or }}}} for a brace") from error
    for _, key, specification, conversion in parts:
        if specification or conversion:
            raise ValueError(f"template {shown} is invalid: the key '{key}' must end at its brace, without ':' or '!'")
    if all(key is None for _, key, _, _ in parts):
        raise ValueError(f"template must contain a key in braces, such as {{text}}, unlike {shown}")
    return [(text, key) for text, key, _, _ in parts]
