"""The rows of masked language modelling: documents, a text each.

A text to be filled in by `trainwright predict` is one too: it holds the tokenizer's mask token where words are missing.
"""

from trainwright.rows.documents import (
    COLUMNS,
    GOLD,
    GROUP,
    IDENTITY,
    MAIN,
    QUESTIONS,
    SCHEMA,
    TEXTS,
    from_source,
    stratum,
)

__all__ = ["COLUMNS", "GOLD", "GROUP", "IDENTITY", "MAIN", "QUESTIONS", "SCHEMA", "TEXTS", "from_source", "stratum"]
