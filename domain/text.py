"""Lines of text that people write and others read: names of things, references, keys.

Two lines that look the same should be the same, as far as that can be had without telling people which letters to use.
So a line holds nothing that is not seen and nothing that changes the order in which the rest is read. It is kept as it
was written: nothing is normalised, trimmed or replaced, here or anywhere else.
"""

from __future__ import annotations

from typing import Final

_CONTROLS: Final = r"\x00-\x1f\x7f-\x9f"
_SEPARATORS: Final = r"\u2028\u2029"
# marks, embeddings, overrides and isolates
_DIRECTIONS: Final = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_ZERO_WIDTH: Final = r"\u00ad\u034f\u180e\u200b-\u200d\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb"
_FILLERS: Final = r"\u115f\u1160\u17b4\u17b5\u3164\uffa0"
# shadows of ASCII that nothing shows; beyond what `\u` can name
_TAGS: Final = f"{chr(0xE0000)}-{chr(0xE007F)}"

LINE: Final = rf"\A[^{_CONTROLS}{_SEPARATORS}{_DIRECTIONS}{_ZERO_WIDTH}{_FILLERS}{_TAGS}]*\Z"
"""The pattern of a line."""
