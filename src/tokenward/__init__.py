"""tokenward: align language models, and see token by token what was learned."""

__version__ = "0.1.0"
