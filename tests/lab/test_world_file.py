from __future__ import annotations

import copy
import json

import pytest
import torch

from tokenward.errors import InputError
from tokenward.lab.world import compared
from tokenward.lab.world_file import parse_world, read_world

WORLD = {
    "tau": 0.7,
    "vocab": 3,
    "horizon": 1,
    "eos": None,
    "prompts": [
        {"weight": 2, "ref": [0.5, 0.3, 0.2], "reward": [1, 0, -1]},
        {"ref": [0.2, 0.2, 0.6], "reward": [0, 1, 2]},
    ],
}
P = [[0.5, 0.8, 0.6], [0.2, 0.5, 0.7], [0.4, 0.3, 0.5]]


def given(**fields):
    return {**copy.deepcopy(WORLD), **fields}


def prompt(**fields):
    return given(prompts=[{**copy.deepcopy(WORLD["prompts"][0]), **fields}])


def test_absent_keys_have_the_defaults_of_the_format():
    world = parse_world({**given(), "group": None, "samples": None, "features": None, "optimizer": "auto"})
    one = world.prompts[0]
    assert (one.pairs, one.sampler, one.critic, one.guide) == ("uniform", "reference", "exact", None)
    assert (one.labels.temperature, one.labels.noise, one.labels.matrix) == (1.0, 0.0, None)
    assert world.weight.tolist() == pytest.approx([2 / 3, 1 / 3])
    without_eos = given()
    del without_eos["eos"]
    assert parse_world(without_eos).tree.eos is None


def test_a_key_in_a_prompt_wins_over_the_world():
    raw = given(sampler="uniform", critic="zero", guide=[0.2, 0.3, 0.5])
    raw["prompts"][1] |= {"sampler": [0, 0.5, 0.5], "critic": "exact", "labels": {"kind": "matrix", "p": P}}
    first, second = parse_world(raw).prompts
    assert (first.sampler, first.critic, first.guide.tolist()) == ("uniform", "zero", [0.2, 0.3, 0.5])
    assert second.sampler.tolist() == [0, 0.5, 0.5]
    assert second.critic == "exact"
    assert second.labels.matrix.tolist() == P


def test_listed_pairs_are_normalized_and_keep_their_order():
    one = parse_world(given(pairs=[[0, 1, 3], [2, 1, 1]])).prompts[0]
    listed = compared(one, one.ref)
    assert listed.pairs.tolist() == [[0, 1], [2, 1]]
    assert listed.weight.tolist() == [0.75, 0.25]


def test_labels_are_bradley_terry_with_temperature_and_noise():
    one = parse_world(given(labels={"kind": "bradley-terry", "temperature": 2, "noise": 0.1})).prompts[0]
    p = 1 / (1 + torch.exp(torch.tensor(-0.5, dtype=torch.float64)))
    got = one.labels.prefer(one.reward, torch.tensor([[0, 1], [1, 0], [1, 1]]))
    assert got.tolist() == pytest.approx([float(0.9 * p + 0.1 * (1 - p)), float(0.1 * p + 0.9 * (1 - p)), 0.5])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "must be a JSON object, got \\[\\]"),
        (given(taut=1), "unknown key 'taut'. Did you mean 'tau'\\?"),
        (given(tau=0), "tau must be above 0, got 0"),
        (given(tau=float("nan")), "tau must be a finite number, got NaN"),
        (given(tau=10**400), "tau must be a finite number"),
        (given(tau=True), "tau must be a finite number, got true"),
        ({k: v for k, v in WORLD.items() if k != "tau"}, "tau is missing"),
        (given(vocab=2.5), "vocab must be a whole number, got 2.5"),
        (given(horizon=20), "more than 4,096 leaves"),
        (given(eos=3), "eos null or below vocab"),
        (given(eos="a"), 'eos must be a whole number, got "a"'),
        (given(prompts=[]), "prompts must be a list of one object or more"),
        (given(prompts=[1]), "prompt 0 must be a JSON object, got 1"),
        (given(prompts=[{"reward": [1, 2, 3]}]), "prompt 0: ref is missing"),
        (given(prompts=[{"ref": [0.5, 0.3, 0.2]}]), "prompt 0: reward is missing"),
        (prompt(ref=[0.5, 0.5]), "ref must be a list of 3 numbers, one per leaf, got 2 values"),
        (prompt(ref="uniform"), 'ref must be a list of 3 numbers, one per leaf, got "uniform"'),
        (prompt(ref=[0.5, 0.3, 0.1]), "ref sums to 0.9; probabilities of the leaves must sum to 1"),
        (prompt(ref=[0.5, 0.5, 0]), "ref of leaf 2 is 0; every probability must be above 0"),
        (prompt(ref=[0.5, 0.7, -0.2]), "ref of leaf 2 is -0.2"),
        (prompt(reward=[1, 2, None]), "reward\\[2\\] must be a finite number, got null"),
        (prompt(reward=[1, 2]), "reward must be a list of 3 numbers"),
        (prompt(weight=0), "weight must be above 0, got 0"),
        (prompt(guide=[1, 0, 0]), "guide of leaf 1 is 0; every probability must be above 0"),
        (prompt(guide=[0.2, 0.2, 0.2]), "guide sums to 0.6"),
        (prompt(temperature=1), "unknown key 'temperature'"),
        (given(sampler="on-policy"), 'sampler must be "uniform", .* got "on-policy"'),
        (given(sampler=[0.5, 0.6, -0.1]), "sampler of leaf 2 is -0.1; every probability must be 0 or more"),
        (given(sampler=[0.5, 0.6, 0.1]), "sampler sums to 1.2"),
        (given(pairs="all"), 'pairs must be "uniform", "sampler" or a list'),
        (given(pairs=[]), 'pairs must be "uniform"'),
        (given(pairs=[[0, 1]]), "each pair is \\[i, j, weight\\], got \\[0, 1\\]"),
        (given(pairs=[[0, 3, 1]]), "names a leaf outside 0 … 2"),
        (given(pairs=[[0, 1, -1]]), "weight must be 0 or more, got -1"),
        (given(pairs=[[0, 1, 0]]), "all weights are 0"),
        (given(labels="matrix"), "labels must be a JSON object"),
        (given(labels={"kind": "deterministic"}), 'kind "deterministic" is not supported'),
        (given(labels={"kind": "oriented", "joint": []}), 'kind "oriented" is not supported'),
        (given(labels={"kind": "plackett-luce"}), 'kind must be "bradley-terry" or "matrix"'),
        (given(labels={"kind": ["matrix"]}), 'kind must be "bradley-terry" or "matrix"'),
        (given(labels={"kind": "bradley-terry", "temp": 1}), "unknown key 'temp'. Did you mean 'temperature'"),
        (given(labels={"kind": "bradley-terry", "temperature": 0}), "temperature must be above 0"),
        (given(labels={"kind": "bradley-terry", "noise": 0.6}), "between 0 and 0.5, got 0.6"),
        (given(labels={"kind": "matrix"}), "p must have 3 rows"),
        (given(labels={"kind": "matrix", "p": P[:2]}), "p must have 3 rows"),
        (given(labels={"kind": "matrix", "p": [P[0], P[1], [0.4, 0.4, 0.5]]}), "1 − p\\[j\\]\\[i\\]"),
        (given(critic="learned"), 'critic must be "exact" or "zero", got \'learned\''),
        (given(group=4), "group is not supported but as null, got 4"),
        (given(samples=100), "samples is not supported but as null, got 100"),
        (given(features=[[1], [2], [3]]), "features is not supported but as null"),
        (given(optimizer="adam"), 'optimizer is not supported but as "auto", got "adam"'),
        (given(binary=[0.1, 0.2, 0.3]), "binary is not supported; leave it out"),
        (given(demos=[0.1, 0.2, 0.7]), "demos is not supported; leave it out"),
        (given(seed=1), "seed is not supported; leave it out"),
        (prompt(demos=[0.1, 0.2, 0.7]), "prompt 0: demos is not supported"),
        (prompt(group=2), "prompt 0: group is not supported but as null"),
    ],
)
def test_what_is_refused_is_named_in_one_line(raw, message):
    with pytest.raises(InputError, match=message) as error:
        parse_world(raw, name="w.json")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("world w.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"tau": 1,}', "not JSON: .*line 1"), (b"\xff\xfe", "cannot be read as UTF-8"), (b"[" * 100_000, "not JSON")],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "world.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_world(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no\.json: cannot be read"):
        read_world(tmp_path / "no.json")


def test_a_file_gives_the_world_it_holds(tmp_path):
    path = tmp_path / "world.json"
    path.write_text(json.dumps(given()), encoding="utf-8")
    world = read_world(path)
    assert world.tau == 0.7
    assert world.ref.tolist() == [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]
