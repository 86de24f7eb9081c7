"""What is a word, in any script."""

import re

#: Scripts without spaces between words: each sign counts as a word, as in MLQA.
UNSPACED = re.compile(r"([\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])")
WORD = re.compile(r"[^\W_]+")
