"""tokenward: align language models, and see token by token what was learned.

Subpackages load when first named, so that `tokenward --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"
_SUBPACKAGES = frozenset(
    "objective recipes lab data models rollout train search diagnose studies report types masking".split()
)


def __getattr__(name: str) -> ModuleType:
    if name in _SUBPACKAGES:
        return import_module(f"tokenward.{name}")
    raise AttributeError(f"module 'tokenward' has no attribute {name!r}")
