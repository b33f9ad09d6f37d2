"""The self-contained HTML page of texts token by token."""
