"""stub"""

from pathlib import Path


def waiting(root: Path):
    return {}
