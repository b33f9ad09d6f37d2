"""`tokenward data graph`: small files counted by hand, and worlds of the lab."""

from __future__ import annotations

import json

import pytest

from tests.lab.plain import REF, REWARD
from tokenward.cli import main
from tokenward.diagnose.data.comparisons import file_graph
from tokenward.diagnose.data.world_graph import is_world, world_graph


def row(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def written(tmp_path, rows):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return str(file)


ROWS = [
    row("p", "a", "b"),  # a cycle: a > b > c > a, and d apart with e
    row("p", "b", "c"),
    row("p", "c", "a"),
    row("p", "c", "a"),  # repeated
    row("p", "d", "e"),
    row("q", "a", "b"),  # the same texts under another prompt are other answers
    row("q", "b", "a"),  # contradicted
    row("r", "x", "y"),  # one pair
    row("s", "x", "y", target=0.7),  # a soft label is both ways
    row("t", "u", "v"),
    row("t", "u", "w"),  # a star of three answers, u always wins
    row("t", "u", ""),  # dropped
]


def test_a_small_file_counted_by_hand(tmp_path):
    found = file_graph(written(tmp_path, ROWS))
    assert (found.rows, found.usable, found.prompts, found.responses) == (12, 11, 5, 5 + 2 + 2 + 2 + 3)
    assert (found.pairs, found.repeated, found.contradicted, found.soft) == (3 + 1 + 1 + 1 + 1 + 2, 1, 1, 1)
    assert found.single_pair_prompts == 3  # q, r, s
    assert (found.components, found.components_per_prompt) == (6, {1: 4, 2: 1})
    assert found.sizes == {2: 4, 3: 2}
    assert found.finite == 3  # the cycle, q and s
    # triangle with a doubled edge, weights 1 1 2: eigenvalues 3 and 5; star of three: 1 and 3
    assert found.wide == 2
    assert (found.connectivity.least, found.connectivity.most) == (pytest.approx(1), pytest.approx(3))
    assert (found.condition.least, found.condition.most) == (pytest.approx(5 / 3), pytest.approx(3))
    assert "1 empty response" in found.dropped


def test_what_follows_is_said_only_where_it_does(tmp_path):
    told = " ".join(file_graph(written(tmp_path, ROWS)).follows())
    assert "3 of 5 prompts have one pair" in told and "1 of 5 prompts have several components" in told
    assert "In 3 of 6 components no chain of wins" in told
    whole = file_graph(written(tmp_path, ROWS[:4]))
    assert whole.single_pair_prompts == 0 and whole.finite == whole.components == 1
    told = " ".join(whole.follows())
    assert "one pair" not in told and "several components" not in told and "no chain" not in told
    assert "Answers that no row names" in told


def test_weights_count_as_comparisons_and_rows_of_weight_zero_do_not(tmp_path):
    rows = [row("p", "a", "b", weight=2.0), row("p", "b", "c", weight=2.0), row("p", "c", "a", weight=0.0)]
    found = file_graph(written(tmp_path, rows))
    assert (found.connectivity.least, found.condition.least) == (pytest.approx(2), pytest.approx(3))
    assert found.finite == 0 and found.pairs == 2


def test_conversations_and_transcripts_are_nodes_too(tmp_path):
    said = [{"role": "user", "content": "p"}]
    answers = [[*said, {"role": "assistant", "content": text}] for text in "abc"]
    rows = [{"chosen": answers[0], "rejected": answers[1]}, {"chosen": answers[1], "rejected": answers[2]}]
    found = file_graph(written(tmp_path, rows))
    assert (found.prompts, found.responses, found.components) == (1, 3, 1)


def test_graph_on_the_command_line(tmp_path, capsys):
    file = written(tmp_path, ROWS)
    assert main(["data", "graph", file]) == 0
    told = capsys.readouterr().out
    assert "12 rows, 11 usable" in told and "pairs preferred both ways: 1" in told
    assert main(["data", "graph", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["components_per_prompt"] == {"1": 4, "2": 1} and len(found["follows"]) == 5
    demos = tmp_path / "demos.jsonl"
    demos.write_text('{"prompt": "p", "completion": "a"}\n', encoding="utf-8")
    assert main(["data", "graph", str(demos)]) == 2
    assert "data graph needs pairs" in capsys.readouterr().err
    assert main(["data", "graph", str(tmp_path / "none.jsonl")]) == 2
    assert main(["data", "graph", file, "--tokenizer", "x"]) == 2
    assert main(["data", "graph", "--help"]) == 0
    assert "world of the" in capsys.readouterr().out
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    assert main(["data", "graph", str(tmp_path / "empty.jsonl")]) == 2
    assert "has no rows" in capsys.readouterr().err


def world(tmp_path, *, reward=REWARD, ref=REF, **fields):
    given = {"tau": 0.7, "vocab": len(ref), "horizon": 1, "prompts": [{"ref": list(ref), "reward": list(reward)}]}
    file = tmp_path / "world.json"
    file.write_text(json.dumps({**given, **fields}, indent=2), encoding="utf-8")
    return str(file)


def test_a_world_tells_spectra_and_where_unseen_mass_goes(tmp_path, capsys):
    file = world(tmp_path, reward=[2, 1, -3, 0, 0], ref=[0.02, 0.02, 0.56, 0.2, 0.2], pairs=[[0, 1, 1], [1, 2, 1]])
    assert is_world(file)
    (found,) = world_graph(file).prompts
    assert (found.leaves, found.pairs, found.components, found.unseen) == (5, 2, 3, (3, 4))
    assert found.unseen_before == pytest.approx(0.4)
    assert found.unseen_after == pytest.approx(1 - 0.523467, abs=1e-6)  # statement 9: mass flows to the unseen
    assert found.plain[0].connectivity == pytest.approx(0.5)  # a path of weights ½: ½ and 3/2
    assert found.plain[0].condition == pytest.approx(3)
    assert main(["data", "graph", file]) == 0
    assert "leaves unseen: mass 0.4 at the reference" in capsys.readouterr().out
    assert main(["data", "graph", file, "--split", "test"]) == 2
    assert "a file has no split 'test'" in capsys.readouterr().err


def test_worlds_that_are_linked_or_have_prefixes(tmp_path, capsys):
    (linked,) = world_graph(world(tmp_path)).prompts
    assert (linked.components, linked.unseen, linked.unseen_before, linked.unseen_after) == (1, (), 0.0, 0.0)
    assert linked.weighted[0].connectivity == pytest.approx(0.0370, abs=1e-4)  # 2/25 of each pair
    ref, reward = [0.1, 0.2, 0.3, 0.4], [1, 0, 2, 0]
    prompts = [{"ref": ref, "reward": reward, "pairs": [[0, 1, 1]]}]
    file = world(tmp_path, ref=ref, reward=reward, prompts=prompts, vocab=2, horizon=2)
    assert main(["data", "graph", file]) == 0
    told = capsys.readouterr().out
    assert "not known in closed form, as prefixes are shared" in told and "mass 0.7" in told
    assert main(["data", "graph", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"][0]["unseen_after"] is None
