from __future__ import annotations

import copy
import json
import os
import threading

import pytest
import torch

from tokenward.errors import InputError
from tokenward.lab.worlds.world import compared
from tokenward.lab.worlds.world_file import parse_world, read_world

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
        (given(tau=1e-300), "prompt 0: reward, and reward ÷ tau, must stay below 1e\\+100, got 1 and tau 1e-300"),
        (prompt(reward=[1e200, 0, 0]), "reward ÷ tau, must stay below"),
        (given(tau=1e50), "tau must be 1e\\+10 or less, where every target is π_ref, got 1e\\+50"),
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
        (given(labels={"kind": "deterministic", "noise": 0}), "labels: unknown key 'noise'"),
        (given(labels={"kind": "oriented"}), r"joint must be a list of \[winner, loser, q\], got null"),
        (given(labels={"kind": "oriented", "joint": []}), "joint must be a list of"),
        (given(labels={"kind": "oriented", "joint": [[0, 1]]}), r"each entry is \[winner, loser, q\], got \[0, 1\]"),
        (given(labels={"kind": "oriented", "joint": [[0, 3, 1]]}), "joint: .* names a leaf outside 0 … 2"),
        (given(labels={"kind": "oriented", "joint": [[0, 1, -1]]}), "joint: q must be 0 or more, got -1"),
        (given(labels={"kind": "oriented", "joint": [[0, 1, 0]]}), "all qs are 0"),
        (given(labels={"kind": "deterministc"}), "got \"deterministc\". Did you mean 'deterministic'\\?"),
        (
            given(labels={"kind": "plackett-luce"}),
            'kind must be one of "bradley-terry", .*"oriented", got "plackett-luce"',
        ),
        (given(labels={"kind": ["matrix"]}), 'kind must be one of "bradley-terry"'),
        (given(labels={"kind": "bradley-terry", "temp": 1}), "unknown key 'temp'. Did you mean 'temperature'"),
        (given(labels={"kind": "bradley-terry", "temperature": 0}), "temperature must be above 0"),
        (given(labels={"kind": "bradley-terry", "noise": 0.6}), "between 0 and 0.5, got 0.6"),
        (given(labels={"kind": "matrix"}), "p must have 3 rows"),
        (given(labels={"kind": "matrix", "p": P[:2]}), "p must have 3 rows"),
        (given(labels={"kind": "matrix", "p": [P[0], P[1], [0.4, 0.4, 0.5]]}), "1 − p\\[j\\]\\[i\\]"),
        (given(critic="learned"), 'critic must be "exact" or "zero", got \'learned\''),
        (given(group=0), "group must be 1 or more, got 0"),
        (given(group=2.0), "group must be a whole number, got 2.0"),
        (given(samples=0), "samples must be 1 or more, got 0"),
        (given(samples="100"), 'samples must be a whole number, got "100"'),
        (given(samples=10**8), "samples must be 10,000,000 or less, got 100000000"),
        (given(samples=10, seed=-1), "seed must be 0 or more, got -1"),
        (given(samples=10, seed=2**63), "seed must be 9,223,372,036,854,775,807 or less"),
        (given(features=[[1], [2]]), "features must have 3 rows, one per leaf, each a list of numbers, got 2 rows"),
        (given(features=[1, 2, 3]), "features\\[0\\] must be a list of as many numbers as the other rows, got 1"),
        (given(features=[[1], [2, 3], [4]]), "features\\[1\\] must be a list of as many numbers as the other rows"),
        (given(features=[[], [], []]), "features\\[0\\] must be a list"),
        (given(features=[[1], [2], ["x"]]), "features\\[2\\]\\[0\\] must be a finite number"),
        (given(optimizer="sgd"), 'optimizer must be "auto", "gradient" or "adam", got "sgd"'),
        (given(binary=[0.1, 0.2]), "binary must be a list of 3 numbers"),
        (given(binary=[0.1, 0.2, 1.3]), "binary of leaf 2 is 1.3; P\\(desirable\\) must be between 0 and 1"),
        (given(demos=[0.1, 0.2, 0.8]), "demos sums to 1.1"),
        (given(demos=[0.5, 0.7, -0.2]), "demos of leaf 2 is -0.2; every probability must be 0 or more"),
        (prompt(samples=2.5), "prompt 0: samples must be a whole number, got 2.5"),
    ],
)
def test_what_is_refused_is_named_in_one_line(raw, message):
    with pytest.raises(InputError, match=message) as error:
        parse_world(raw, name="w.json")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("world w.json")


def test_every_key_but_those_of_the_tree_may_stand_in_a_prompt():
    own = {
        "pairs": [[0, 1, 1]], "labels": {"kind": "deterministic"}, "binary": [0, 0.5, 1], "sampler": "uniform",
        "guide": [0.2, 0.3, 0.5], "group": 4, "samples": 10, "seed": 3, "critic": "zero",
        "features": [[1], [2], [3]], "demos": [0, 0.4, 0.6], "optimizer": "adam", "weight": 3,
        "ref": [0.5, 0.3, 0.2], "reward": [1, 0, -1],
    }  # fmt: skip
    outer = {key: WORLD[key] for key in ("tau", "vocab", "horizon", "eos")}
    inside, outside = parse_world({**outer, "prompts": [own]}), parse_world({**outer, **own, "prompts": [{}]})
    for world in (inside, outside):
        one = world.prompts[0]
        assert (one.labels.kind, one.sampler, one.group, one.critic) == ("deterministic", "uniform", 4, "zero")
        assert (one.samples.number, one.samples.seed, one.weight) == (10, 3, 3.0)
        assert one.binary.tolist() == [0, 0.5, 1]
        assert world.desirable.tolist() == [[0, 0.5, 1]]
        assert world.demos.tolist() == [pytest.approx([0, 0.4, 0.6])]
        assert world.features.tolist() == [[[1], [2], [3]]]
        assert world.optimizer == "adam"


def test_absent_data_follow_from_the_reward():
    world = parse_world(given())
    reward = torch.tensor([[1.0, 0, -1], [0, 1, 2]], dtype=torch.float64)
    assert world.desirable.tolist() == torch.sigmoid(reward).tolist()
    assert world.demos.tolist() == world.target.tolist()
    assert world.features is None
    assert (world.optimizer, world.prompts[0].group, world.prompts[0].samples) == ("auto", None, None)


def test_what_prompts_share_may_not_differ():
    raw = given()
    raw["prompts"][0]["optimizer"] = "adam"
    with pytest.raises(InputError, match="optimizer must be the same for all prompts"):
        parse_world(raw)
    for own in ([[1], [2], [3]], [[1, 0], [2, 0], [3, 0]]):
        raw = given(**({"features": [[1], [2], [3]]} if len(own[0]) > 1 else {}))
        raw["prompts"][0]["features"] = own
        with pytest.raises(InputError, match="features must be given for every prompt"):
            parse_world(raw)


def test_deterministic_labels_are_the_sign_of_the_gap():
    one = parse_world(given(labels={"kind": "deterministic"}, reward=[1, 1, 0], prompts=[{"ref": [0.5, 0.3, 0.2]}]))
    prompt = one.prompts[0]
    assert prompt.labels.prefer(prompt.reward, torch.tensor([[0, 1], [0, 2], [2, 1]])).tolist() == [0.5, 1, 0]


def test_a_joint_of_winners_and_losers_becomes_pairs_with_their_posterior():
    joint = [[0, 1, 3], [1, 0, 1], [2, 1, 2], [2, 1, 2], [1, 1, 2]]
    one = parse_world(given(labels={"kind": "oriented", "joint": joint}, pairs="uniform")).prompts[0]
    listed = compared(one, one.ref)
    weights = dict(zip(map(tuple, listed.pairs.tolist()), listed.weight.tolist(), strict=True))
    assert weights == pytest.approx({(0, 1): 0.4, (1, 2): 0.4, (1, 1): 0.2})  # 4, 4, 2 of 10
    got = one.labels.prefer(one.reward, torch.tensor([[0, 1], [1, 0], [2, 1], [0, 2], [1, 1]]))
    assert got.tolist() == [0.75, 0.25, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"tau": 1, "tau": 2}', "key .tau. stands twice"),
        (b'{"tau": 1,}', "not JSON: .*line 1"),
        (b"\xff\xfe", "cannot be read as UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "world.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_world(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"^world: no file .*no\.json$"):
        read_world(tmp_path / "no.json")


def test_a_pipe_is_read_like_a_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(json.dumps(given()),))
    writer.start()
    assert read_world(path).tau == 0.7
    writer.join()


def test_a_file_gives_the_world_it_holds(tmp_path):
    path = tmp_path / "world.json"
    path.write_text(json.dumps(given()), encoding="utf-8")
    world = read_world(path)
    assert world.tau == 0.7
    assert world.ref.tolist() == [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]
