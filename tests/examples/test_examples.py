"""The examples on real text, through the public command line, at a small size."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT


def run(script: str, *words: str, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / script), *words],
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_stories_sentiment(shared: Path, tmp_path: Path) -> None:
    stories = tmp_path / "stories.txt"
    text = next((shared / "data" / "tinystories").glob("*.txt")).read_text(encoding="utf-8")
    stories.write_text("<|endoftext|>".join(text.split("<|endoftext|>")[:60]), encoding="utf-8")
    model, lexicon = shared / "models" / "stories260K", shared / "data" / "sentiment" / "vader_lexicon.zip"
    small = {"SAMPLES": "2", "UPDATES": "3", "HELDOUT": "5"}
    printed = run("stories_sentiment.sh", str(model), str(stories), str(lexicon), str(tmp_path / "out"), **small)
    number = r"-?\d\.\d{3} ± \d\.\d{3}"
    for name in ("before", "dpo", "ppo", "rto"):
        assert re.search(rf"^{name} +{number} +{number} ", printed, re.MULTILINE), printed
    assert re.search(rf"^rto − ppo: reward {number}$", printed, re.MULTILINE)
    assert re.search(r"^completions scored for training: dpo \d+, ppo and rto 96 each", printed, re.MULTILINE)
    assert (tmp_path / "out" / "rto" / "model" / "model.safetensors").is_file()
    assert "<script src" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_helpful_pairs(shared: Path, tmp_path: Path) -> None:
    pairs = shared / "data" / "hh_rlhf" / "helpful-base-test.jsonl.gz"
    model = shared / "models" / "stories260K"
    printed = run("helpful_pairs.sh", str(model), str(pairs), str(tmp_path / "out"), "96", PASSES="1")
    before, after = re.findall(r"^accuracy +(\d\.\d+)", printed, re.MULTILINE)
    assert before == "0.500"  # the model is its own reference: every margin is a tie
    assert after != before
    assert re.findall(r"^longer_wins +0\.\d+", printed, re.MULTILINE)


@pytest.mark.slow
def test_gsm8k_answers(shared: Path, tmp_path: Path) -> None:
    source, prompts = shared / "data" / "gsm8k" / "test.jsonl", tmp_path / "prompts.jsonl"
    command = [sys.executable, str(ROOT / "examples" / "gsm8k_answers.py"), str(source), str(prompts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "1319 solutions, 100.00% of the answers parse; not read: none",
        "score of the reference solutions 1.0000, with another number 0.0000",
    ]
    assert set(json.loads(prompts.read_text(encoding="utf-8").splitlines()[0])) == {"prompt", "answer"}
