"""One row of data: its columns read as prompt, responses and numbers, or what is wrong with it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, final

from tokenward.data.tally import BadRow
from tokenward.data.values import number, shown, token_ids, unicode_text

DIALOGUES = ("chosen_messages", "rejected_messages")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"  # turns of hh-rlhf transcripts


@final
@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Text: TypeAlias = str | tuple[Message, ...]


@final
@dataclass(frozen=True)
class Turns:
    """A trajectory after its prompt: the assistant's turns with what an environment answered in between.

    `tokens[i]` are the ids of turn i where they are known: those that were sampled, the end token included.
    """

    messages: tuple[Message, ...]
    tokens: tuple[tuple[int, ...] | None, ...]


@final
@dataclass(frozen=True)
class Step:
    """What one model of a pipeline read and wrote; `actor` numbers the model from 0."""

    actor: int
    prompt: Text
    answer: Text


@final
@dataclass(frozen=True)
class Steps:
    """The steps of a pipeline of models, in order; only the last answer is what a user sees."""

    steps: tuple[Step, ...]


Answer: TypeAlias = Text | Turns | Steps


@final
@dataclass(frozen=True)
class Row:
    """One row whose columns are right, not yet tokens.

    `responses` holds none (prompts), one, or (chosen, rejected); prompt and responses are all text or all messages,
    or the responses are trajectories, or the steps of a pipeline (then `prompt` is what the first step read).
    `scores` belong to the responses · `target` = P(chosen is preferred) · `columns` are those of the file.
    """

    where: str
    prompt: Text
    responses: tuple[Answer, ...] = ()
    label: bool | None = None
    scores: tuple[float, ...] | None = None
    target: float | None = None
    weight: float | None = None
    columns: dict[str, Any] = field(default_factory=dict)


# --- one parser per schema ----------------------------------------------------------------------------------------


def prompts(where: str, columns: dict[str, Any]) -> Row:
    """prompt; the other columns are kept for the reward function."""
    return Row(where, _text(columns, "prompt"), columns=columns)


def demonstration(where: str, columns: dict[str, Any]) -> Row:
    """prompt, completion."""
    prompt, answer = _turn(_text(columns, "prompt"), _text(columns, "completion"), "completion")
    return Row(where, prompt, (answer,), weight=number(columns, "weight", least=0.0), columns=columns)


def labeled(where: str, columns: dict[str, Any]) -> Row:
    """prompt, completion, label: true (desirable) or false."""
    label = columns["label"]
    if not isinstance(label, bool):
        raise BadRow("wrong type", f"label must be true or false, got {shown(label)}")
    return replace(demonstration(where, columns), label=label)


def scored(where: str, columns: dict[str, Any]) -> Row:
    """prompt, completion, score: a finite number."""
    score = number(columns, "score")
    assert score is not None
    return replace(demonstration(where, columns), scores=(score,))


def conversation(where: str, columns: dict[str, Any]) -> Row:
    """messages: the prompt is all but the last one, which is the assistant's."""
    prompt, answer = _cut_last(_messages(columns["messages"], "messages"), "messages")
    return Row(where, prompt, (answer,), weight=number(columns, "weight", least=0.0), columns=columns)


def trajectory(where: str, columns: dict[str, Any]) -> Row:
    """prompt, turns; with a label or a score where the columns have one."""
    row = Row(where, _text(columns, "prompt"), (_turns(columns["turns"], "turns"),), columns=columns)
    label, score = columns.get("label"), number(columns, "score")
    if label is not None and not isinstance(label, bool):
        raise BadRow("wrong type", f"label must be true or false, got {shown(label)}")
    scores = None if score is None else (score,)
    return replace(row, label=label, scores=scores, weight=number(columns, "weight", least=0.0))


def trajectory_pair(where: str, columns: dict[str, Any]) -> Row:
    """prompt, chosen_turns, rejected_turns."""
    chosen, rejected = (_turns(columns[name], name) for name in ("chosen_turns", "rejected_turns"))
    if chosen == rejected:
        raise BadRow("identical chosen and rejected", "the two trajectories are the same")
    return pair(where, _text(columns, "prompt"), chosen, rejected, columns)


def dialogue_pair(where: str, columns: dict[str, Any]) -> Row:
    """chosen_messages, rejected_messages: the same up to the assistant's first message, which ends the prompt."""
    (prompt, chosen), (other, rejected) = (_dialogue(columns[name], name) for name in DIALOGUES)
    if prompt != other:
        raise BadRow("prompt differs", f"{' and '.join(DIALOGUES)} differ before the assistant's first message")
    if chosen == rejected:
        raise BadRow("identical chosen and rejected", "the two dialogues are the same")
    return pair(where, prompt, chosen, rejected, columns)


def preference(where: str, columns: dict[str, Any]) -> Row:
    """prompt, chosen, rejected."""
    chosen, rejected = _text(columns, "chosen"), _text(columns, "rejected")
    if chosen == rejected:
        raise BadRow("identical chosen and rejected", "the two answers are the same")
    prompt, (better, worse) = _split_pair(_text(columns, "prompt"), chosen, rejected)
    return pair(where, prompt, better, worse, columns)


def implicit(where: str, columns: dict[str, Any]) -> Row:
    """chosen, rejected as whole conversations: messages, or hh-rlhf's two transcripts."""
    chosen, rejected = _text(columns, "chosen"), _text(columns, "rejected")
    if chosen == rejected:
        raise BadRow("identical chosen and rejected", "the two conversations are the same")
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, better, worse = _transcripts(chosen, rejected)
        return pair(where, prompt, better, worse, columns)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise BadRow("wrong type", "chosen and rejected must both be text or both be messages")
    start, best = _cut_last(chosen, "chosen")
    other, worst = _cut_last(rejected, "rejected")
    if start != other:
        raise BadRow("prompt differs", "chosen and rejected differ before their last message")
    return pair(where, start, best, worst, columns)


def pair(where: str, prompt: Text, chosen: Answer, rejected: Answer, columns: dict[str, Any]) -> Row:
    """Two answers to a prompt with the numbers that the columns have about them."""
    better, worse = number(columns, "score_chosen"), number(columns, "score_rejected")
    if (better is None) != (worse is None):
        raise BadRow("missing column", "score_chosen and score_rejected: give both or neither")
    return Row(
        where,
        prompt,
        tuple(
            answer if isinstance(answer, Turns | Steps) else _not_empty(answer, name)
            for name, answer in (("chosen", chosen), ("rejected", rejected))
        ),
        scores=None if better is None or worse is None else (better, worse),
        target=number(columns, "target", least=0.0, most=1.0),
        weight=number(columns, "weight", least=0.0),
        columns=columns,
    )


def _transcripts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """hh-rlhf: the prompt is all up to the last `Assistant:`, the same in both; no turn may follow the answer."""
    ends = [text.rfind(ASSISTANT) + len(ASSISTANT) for text in (chosen, rejected)]
    if min(ends) < len(ASSISTANT):
        raise BadRow("prompt differs", f"chosen and rejected share no {ASSISTANT!r}; give a column prompt")
    prompt, answers = chosen[: ends[0]], (chosen[ends[0] :], rejected[ends[1] :])
    if prompt != rejected[: ends[1]]:
        raise BadRow("prompt differs", "the conversations part before the last answer")
    if any(HUMAN in answer for answer in answers):
        raise BadRow("prompt differs", f"a conversation goes on with {HUMAN!r} after the last answer")
    return prompt, *answers


# --- values -------------------------------------------------------------------------------------------------------


def _text(columns: dict[str, Any], name: str) -> Text:
    value = columns[name]
    return unicode_text(value, name) if isinstance(value, str) else _messages(value, name)


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRow("wrong type", f"{name} must be text or a list of messages, got {shown(value)}")
    if not value:
        raise BadRow("wrong type", f"{name} is a list without messages")
    return tuple(_message(item, f"{name}[{place}]") for place, item in enumerate(value))


def _message(item: dict[str, Any], name: str) -> Message:
    for key in ("role", "content"):
        if not isinstance(item.get(key), str):
            raise BadRow("wrong type", f"{name}.{key} must be text, got {shown(item.get(key))}")
    if more := [key for key, value in item.items() if key not in ("role", "content") and value not in (None, [], "")]:
        raise BadRow("wrong type", f"{name} has {', '.join(more)}: a message holds role and content only")
    return Message(unicode_text(item["role"], name), unicode_text(item["content"], name))


def _turns(items: Any, name: str) -> Turns:
    """A list of turns that begins and ends with the assistant's; `tokens` beside `content` are its ids."""
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise BadRow("wrong type", f"{name} must be a list of turns, got {shown(items)}")
    ids = [token_ids(item.get("tokens"), f"{name}[{place}].tokens") for place, item in enumerate(items)]
    bare = [{key: value for key, value in item.items() if key != "tokens"} for item in items]
    messages = tuple(_message(item, f"{name}[{place}]") for place, item in enumerate(bare))
    spoken = [message.role == "assistant" for message in messages]
    if not (spoken[0] and spoken[-1]) or any(not (a or b) for a, b in itertools.pairwise(spoken)):
        raise BadRow("wrong type", f"{name} must begin and end with the assistant, one observation between two turns")
    if any(a and b for a, b in itertools.pairwise(spoken)):
        raise BadRow("wrong type", f"{name} has two turns of the assistant with no observation between them")
    return Turns(messages, tuple(ids))


def _dialogue(items: Any, name: str) -> tuple[tuple[Message, ...], Turns]:
    """(the messages before the assistant's first, all from there on)."""
    messages = _messages(items, name)
    start = next((place for place, message in enumerate(messages) if message.role == "assistant"), 0)
    if not start:
        raise BadRow("wrong type", f"{name} must have a message of the assistant after at least one other")
    return messages[:start], _turns(items[start:], f"{name} from message {start + 1} on")


def _cut_last(messages: tuple[Message, ...], name: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """(all but the last message, the last one), which must be the assistant's."""
    if messages[-1].role != "assistant" or len(messages) < 2:
        raise BadRow("wrong type", f"{name} must end with a message of the assistant after at least one other")
    return messages[:-1], messages[-1:]


def _turn(prompt: Text, answer: Text, name: str) -> tuple[Text, Text]:
    """Prompt and answer, both as text or both as messages: one role user, the other role assistant."""
    if isinstance(prompt, str) and isinstance(answer, str):
        return prompt, _not_empty(answer, name)
    prompt = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    answer = (Message("assistant", answer),) if isinstance(answer, str) else answer
    if len(answer) != 1 or answer[0].role != "assistant":
        raise BadRow("wrong type", f"{name} must be text or one message of the assistant")
    return prompt, _not_empty(answer, name)


def _split_pair(prompt: Text, chosen: Text, rejected: Text) -> tuple[Text, tuple[Text, Text]]:
    """Prompt and answers; answers that are whole conversations (UltraFeedback) must begin with the same prompt."""
    if not isinstance(chosen, str) and not isinstance(rejected, str) and len(chosen) > 1:
        start, better = _cut_last(chosen, "chosen")
        other, worse = _cut_last(rejected, "rejected")
        known = prompt in [m.content for m in start if m.role == "user"] if isinstance(prompt, str) else prompt == start
        if start != other or not known:
            raise BadRow("prompt differs", "chosen and rejected must begin with the messages of prompt")
        return start, (better, worse)
    better_prompt, better_answer = _turn(prompt, chosen, "chosen")
    worse_prompt, worse_answer = _turn(prompt, rejected, "rejected")
    if better_prompt != worse_prompt:
        raise BadRow("wrong type", "chosen and rejected must both be text or both be messages")
    return better_prompt, (better_answer, worse_answer)


def _not_empty(answer: Text, name: str) -> Text:
    content = answer if isinstance(answer, str) else answer[-1].content
    if not content.strip():
        raise BadRow("empty response", f"{name} is empty")
    return answer
