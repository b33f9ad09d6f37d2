"""Models beside the policy read its token ids: another tokenizer is refused, by the name of the flag."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import runs, tiny
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.train import loop, vocabulary
from tokenward.train.opened import fresh


def other(folder: Path) -> str:
    """A model of the same shape whose tokenizer lacks two words."""
    return str(tiny.saved(folder / "other", words=tiny.VOCABULARY - 2))


@pytest.mark.parametrize(
    ("recipe", "role"), [("dpo", "ref"), ("rto", "guide"), ("rto", "guide_ref"), ("ppo", "critic")]
)
def test_a_model_of_another_tokenizer_is_refused_by_its_flag(recipe: str, role: str, tmp_path: Path) -> None:
    config = runs.config(tmp_path, recipe, **{role: other(tmp_path)})
    line = rf"^{role} = .*other has another tokenizer than the policy \(2 entries differ\)"
    with pytest.raises(InputError, match=line) as error:
        loop.run(config, recipe, show="nothing")
    assert "\n" not in str(error.value)


def test_the_run_directory_of_a_model_of_another_tokenizer_is_refused_too(tmp_path: Path) -> None:
    other(tmp_path / "run")
    (tmp_path / "run" / "other").rename(tmp_path / "run" / "model")
    config = runs.config(tmp_path, "dpo", ref=str(tmp_path / "run"))
    with pytest.raises(InputError, match=r"^ref = .*run has another tokenizer than the policy \(2 entries differ\)"):
        vocabulary.tokenizer(config)


def test_a_copy_of_the_tokenizer_or_none_is_taken(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "dpo")
    copy = tmp_path / "copy"
    shutil.copytree(config.model, copy)
    again = runs.config(tmp_path, "dpo", ref=str(copy))
    ours = load.tokenizer(config.model).get_vocab()
    assert vocabulary.tokenizer(again).get_vocab() == ours
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert vocabulary.tokenizer(again).get_vocab() == ours


def test_the_policys_own_words_are_no_directories(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "ppo", ref="copy", critic="own")
    assert vocabulary.models(config) == {"model": config.model}


@pytest.mark.parametrize(
    ("recipe", "more", "size"),
    [
        ("remax", {}, "8 prompts × 1 completion and 1 greedy answer, 2 epochs of 2 updates"),
        (
            "xpo",
            {"epochs": 1, "mini_rows": None},
            "8 prompts × 1 completion and 1 of the reference, 1 epoch of 1 update",
        ),
        ("nash_md", {}, "8 prompts × 1 completion and 1 of the mixture, 2 epochs of 2 updates"),
        ("rloo", {"group": 8, "mini_rows": None}, "1 prompt × 8 completions, 2 epochs of 1 update"),
    ],
    ids=["greedy", "reference", "mixture", "group"],
)
def test_the_first_lines_say_who_answers(recipe: str, more: dict[str, object], size: str, tmp_path: Path) -> None:
    config = runs.config(tmp_path, recipe, updates=1, **more)
    with fresh(config, recipe, show="nothing") as live:
        assert live.run.notes[-1].startswith("1 update, ")
        assert live.run.notes[-1].endswith(size)
