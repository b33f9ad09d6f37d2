"""Stories of policies that act for several turns: `tokenward study ask-then-answer`, `tokenward study calculator`."""
