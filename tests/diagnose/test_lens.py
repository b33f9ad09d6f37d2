"""The token lens against softmax in numpy, the recipe's own numbers by hand, and the lab's exact optimum."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tests import runs, tiny
from tests.diagnose.test_credit import rollout
from tests.places import ROOT
from tokenward.data.tokenize import Limits
from tokenward.diagnose.lens.batches import batch_of
from tokenward.diagnose.lens.columns import Models, columns, columns_of
from tokenward.diagnose.lens.credit import pieces
from tokenward.diagnose.lens.lab import lab_rows
from tokenward.diagnose.lens.record import credit
from tokenward.diagnose.lens.request import Request
from tokenward.diagnose.lens.rows import MEANINGS, TokenRow, read_rows, write_rows
from tokenward.diagnose.lens.texts import read, texts
from tokenward.diagnose.lens.token_rows import Words, token_rows
from tokenward.errors import InputError
from tokenward.lab.solving.policy import policy_with
from tokenward.lab.worlds.world import default_world
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.models.likely import likely
from tokenward.models.save import save_reward_model
from tokenward.recipes import build

BETA = 0.3


def laws(model, tokens, *, temperature=1.0):
    """`tiny.laws` before each token of one row."""
    table = tiny.laws(model, tokens, temperature=temperature)
    return np.concatenate([np.full((1, table.shape[1]), np.nan), table[:-1]])  # place t speaks about token t


def by_hand(policy, reference, tokens, start):
    """Every value of MEANINGS that two models have, at the tokens from `start` on."""
    ours, theirs = laws(policy, tokens), laws(reference, tokens)
    found = {}
    for t in range(start, len(tokens)):
        p, q = np.exp(ours[t]), np.exp(theirs[t])
        here = {
            "logp": ours[t, tokens[t]], "ref_logp": theirs[t, tokens[t]], "kl": float(p @ (ours[t] - theirs[t])),
            "entropy": -float((p * ours[t]).sum()), "ref_entropy": -float((q * theirs[t]).sum()),
            "ratio": ours[t, tokens[t]] - theirs[t, tokens[t]],
        }  # fmt: skip
        here["credit"] = BETA * here["ratio"]
        for name, value in here.items():
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories of a policy, a reference and a third model, two layers each."""
    folder = tmp_path_factory.mktemp("models")
    return {name: str(tiny.saved(folder / name, seed=seed)) for name, seed in (("m", 0), ("r", 1), ("g", 2))}


def rows_of(folder, models, rows, *, recipe=None, **more):
    """The rows that the request writes, and what credit.json says."""
    data = runs.jsonl(folder / "data.jsonl", rows)
    given = {
        "model": models["m"],
        "ref": models["r"],
        "beta": BETA,
        "data": str(data),
        "out": str(folder / "out"),
        **more,
    }
    found = credit(Request(**given), recipe=recipe, show="none")
    written = read_rows(found.folder / "credit.jsonl")
    assert len(written) == found.texts
    return written, json.loads((found.folder / "credit.json").read_text())


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_tokens", [1, 20, 10_000])
def test_every_value_is_that_of_a_softmax_by_hand(micro_tokens):
    policy, reference = tiny.tiny(seed=0), tiny.tiny(seed=1)
    batch = tiny.batch()
    found = columns(Models(policy, reference, micro_tokens=micro_tokens), batch, beta=BETA)
    for row, start in enumerate((3, 2, 4, 7)):
        length = int(batch.length[row])
        wanted = by_hand(policy, reference, batch.tokens[row, :length].tolist(), start)
        for name, values in found.items():
            assert values[row, start:length].tolist() == pytest.approx(wanted.get(name, []), abs=2e-5), name
            assert not values[row, :start].any() and not values[row, length:].any()
    assert set(found) == {"logp", "ref_logp", "kl", "entropy", "ref_entropy", "ratio", "credit"} < set(MEANINGS)


def test_a_temperature_redefines_both_models():
    policy, reference, batch = tiny.tiny(seed=0), tiny.tiny(seed=1), tiny.batch()
    found = columns(Models(policy, reference, temperature=2.0), batch)
    tokens = batch.tokens[0, :9].tolist()
    wanted = [laws(who, tokens, temperature=2.0)[5, tokens[5]] for who in (policy, reference)]
    assert [float(found[name][0, 5]) for name in ("logp", "ref_logp")] == pytest.approx(wanted, abs=1e-5)
    assert "credit" not in found  # without β there is a log-ratio and no credit


@pytest.mark.parametrize("own", [False, True])
def test_values_come_from_an_own_critic_or_the_shared_head(own):
    head = tiny.tiny(seed=3, value_head=True)
    critic = Scorer(head.backbone, None, head.value_head)
    batch = tiny.batch()
    found = columns(Models(tiny.tiny(), critic=critic) if own else Models(head), batch)
    tokens = batch.tokens[2:3, :12]
    with torch.no_grad():
        states = head.backbone(input_ids=tokens).last_hidden_state[0].double().numpy()
    weight = head.value_head.weight.detach().double().numpy()[0]
    assert found["value"][2, 4:12].tolist() == pytest.approx((states @ weight)[3:11].tolist(), abs=1e-5)
    assert not {"ref_logp", "credit", "kl"} & set(found)


def test_no_more_than_a_chunk_of_logits_is_held(monkeypatch):
    """The largest [N, V] that any head makes is the chunk, and only states before trainable tokens reach it."""
    policy, reference = (
        Scorer(who.backbone, who.lm_head, chunk_floats=2 * tiny.VOCABULARY) for who in (tiny.tiny(), tiny.tiny(seed=1))
    )
    sizes = []
    plain = Scorer.logits
    monkeypatch.setattr(Scorer, "logits", lambda self, states: sizes.append(len(states)) or plain(self, states))
    batch = tiny.batch()
    small = columns(Models(policy, reference), batch, beta=1.0)
    assert max(sizes) <= 2 and sum(sizes) == 2 * int(batch.mask.sum())
    whole = columns(Models(tiny.tiny(), tiny.tiny(seed=1)), batch, beta=1.0)
    assert all(torch.allclose(small[name], whole[name], atol=1e-6) for name in whole)


def test_the_likeliest_tokens_of_both_models():
    policy, reference, batch = tiny.tiny(seed=0), tiny.tiny(seed=1), tiny.batch()
    found = likely(policy, batch, top=3, reference=reference)
    assert [len(places) for places in found] == batch.mask.sum(-1).tolist()
    tokens = batch.tokens[0, :9].tolist()
    ours, theirs = laws(policy, tokens), laws(reference, tokens)
    for offset, place in enumerate(found[0]):
        t = 3 + offset
        union = {*np.argsort(-ours[t])[:3].tolist(), *np.argsort(-theirs[t])[:3].tolist()}
        assert {token for token, _, _ in place} == union
        assert [logp for _, logp, _ in place] == sorted((logp for _, logp, _ in place), reverse=True)
        for token, logp, ref in place:
            assert (logp, ref) == pytest.approx((ours[t, token], theirs[t, token]), abs=1e-5)
    alone = likely(policy, batch, top=2)
    assert all(len(place) == 2 and place[0][2] is None for places in alone for place in places)


# --- the text of tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["spaced", "chatty", "worded"])
def test_pieces_join_to_the_text_and_control_tokens_have_their_names(kind, request):
    tokenizer = request.getfixturevalue(kind)
    draw = torch.Generator().manual_seed(0)
    for _ in range(30):
        ids = torch.randint(0, len(tokenizer), (12,), generator=draw).tolist()
        found = pieces(tokenizer, rollout(ids[:4], ids[4:]))
        special = {tokenizer.convert_ids_to_tokens(i) for i in tokenizer.all_special_ids}
        spoken = "".join(a for a, i in zip(found, ids[4:], strict=True) if i not in tokenizer.all_special_ids)
        before, whole = (
            tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for part in (ids[:4], ids)
        )
        assert whole.endswith(spoken) and (not whole.startswith(before) or before + spoken == whole)
        assert all(a in special for a, i in zip(found, ids[4:], strict=True) if i in tokenizer.all_special_ids)


def test_a_character_of_several_tokens_is_the_last_ones(shared):
    from tokenward.models import load

    tokenizer = load.tokenizer(str(shared / "models" / "stories260K"))
    text = "a é 😀 b"
    ids = tokenizer.encode(text, add_special_tokens=False)
    found = pieces(tokenizer, rollout((tokenizer.bos_token_id,), ids))
    assert "".join(found) == text and "😀" in found and found[found.index("😀") - 3 : found.index("😀")] == ("",) * 3
    cut = pieces(tokenizer, rollout((tokenizer.bos_token_id,), ids[: found.index("😀")]))  # three bytes of four
    assert len(cut) == found.index("😀") and "".join(cut).startswith("a é ")
    words = Words(tokenizer)
    byte = ids[found.index("😀") - 1]
    assert words.of(byte) == tokenizer.convert_ids_to_tokens(byte) and words.of(ids[-1]) == " b"


def test_long_texts_are_cut_into_pieces_without_reading_them_again_and_again(spaced, monkeypatch):
    """Ids decoded in all: a few for each token, where decoding each prefix would take 2,000 each."""
    ids = spaced.encode("time me a tim. " * 300, add_special_tokens=False)
    seen = []
    plain = type(spaced).decode
    monkeypatch.setattr(
        type(spaced), "decode", lambda self, ids, **more: seen.append(len(ids)) or plain(self, ids, **more)
    )
    found = pieces(spaced, rollout(ids[:3], ids[3:]))
    assert len(found) == len(ids) - 3 > 2000 and sum(seen) < 20 * len(ids)


# --- rows of files ------------------------------------------------------------------------------------------------


def test_pairs_become_rows_with_sides_sums_and_alternatives(tmp_path, models):
    data = [
        {"prompt": "w3 w4", "chosen": "w5 w6 w7", "rejected": "w8"},
        {"prompt": "w9", "chosen": "w5", "rejected": "w6"},
    ]
    rows, about = rows_of(tmp_path, models, data, alternatives=3, top=2)
    assert [(row.pair, row.side) for row in rows] == list(itertools.product((0, 1), ("chosen", "rejected")))
    assert [row.alternatives is not None for row in rows] == [True] * 3 + [False]
    wanted = by_hand(tiny.tiny(seed=0), tiny.tiny(seed=1), [3, 4, 5, 6, 7, tiny.EOS], 2)
    for name, values in rows[0].values.items():
        assert values == pytest.approx(wanted[name], abs=2e-5)
    assert rows[0].totals["credit"] == pytest.approx(sum(wanted["credit"]), abs=1e-5)
    assert rows[0].totals["kl"] == pytest.approx(sum(wanted["kl"]), abs=1e-5) and rows[0].totals["length"] == 4
    assert rows[0].tokens == (" w5", " w6", " w7", "<eos>") and rows[0].where.endswith("data.jsonl:1")
    assert {a.token for a in rows[0].alternatives[0]} <= {*(f" w{i}" for i in range(3, 40)), "<pad>", "<eos>", "<bos>"}
    assert all(2 <= len(place) <= 4 for row in rows[:3] for place in row.alternatives)  # two of each model
    assert list(about["values"]) == [name for name in MEANINGS if name in wanted] and about["beta"] == BETA
    assert (
        about["counts"]["texts"] == 4 and about["counts"]["tokens"] == 10 and about["counts"]["with_alternatives"] == 3
    )


def test_observations_keep_their_place_and_have_no_numbers(tmp_path, models):
    turns = [{"role": "assistant", "content": "w5 w6"}, {"role": "environment", "content": "w7 w8"},
             {"role": "assistant", "content": "w9"}]  # fmt: skip
    (row,), _ = rows_of(tmp_path, models, [{"prompt": "w3 w4", "turns": turns, "label": True}])
    assert [x is None for x in row.values["credit"]] == [False] * 3 + [True] * 2 + [False] * 2
    assert row.segment == (0, 0, 0, 0, 0, 1, 1) and row.actor == (0, 0, 0, -1, -1, 0, 0)
    assert row.totals["length"] == 5 and row.totals["label"] == 1.0
    assert row.alternatives[3] == row.alternatives[4] == () and row.alternatives[5]
    wanted = by_hand(tiny.tiny(seed=0), tiny.tiny(seed=1), [3, 4, 5, 6, tiny.EOS, 7, 8, 9, tiny.EOS], 2)["credit"]
    assert [x for x in row.values["credit"] if x is not None] == pytest.approx(wanted[:3] + wanted[5:], abs=1e-5)


def test_a_whole_dialogue_has_numbers_at_the_assistants_turns_alone(tmp_path, chatty):
    def message(role, content):
        return {"role": role, "content": content}

    start, asked = message("user", "Hi"), message("user", "why?")
    dialogues = [[start, message("assistant", first), asked, message("assistant", "no")] for first in ("a b", "c")]
    path = runs.jsonl(tmp_path / "d.jsonl", [{"chosen_messages": dialogues[0], "rejected_messages": dialogues[1]}])
    given = read(path, tokenizer=chatty, limits=Limits())
    rows, batch = texts(given, given.examples), batch_of(given.examples, pad_id=given.pad)
    said = {"credit": torch.arange(batch.tokens.numel(), dtype=torch.float32).reshape(batch.tokens.shape)}
    chosen, rejected = token_rows(rows, batch, said, encoder=given.data.encoder)
    for row, first in ((chosen, "a b"), (rejected, "c")):
        own = [token for token, x in zip(row.tokens, row.values["credit"], strict=True) if x is not None]
        end = given.data.encoder.tokenizer.eos_token
        assert "".join(own) == f"{first}{end}no{end}" and "why?" in "".join(row.tokens)
        turns = [s for s, x in zip(row.segment, row.values["credit"], strict=True) if x is not None]
        assert turns == sorted(turns) and set(turns) == {0, 1} and row.totals["length"] == len(own)
        assert [actor >= 0 for actor in row.actor] == [x is not None for x in row.values["credit"]]


def test_a_pipeline_is_read_by_the_model_that_wrote_each_step(tmp_path, models):
    def steps(last):
        return [{"actor": "model", "prompt": "w3", "completion": "w4"},
                {"actor": "partner", "prompt": "w4", "completion": last}]  # fmt: skip

    data = [{"chosen_steps": steps("w5 w6"), "rejected_steps": steps("w7")}]
    more = {"partner": models["g"], "partner_ref": models["r"]}
    rows, _ = rows_of(tmp_path, models, data, **more)
    assert [(row.side, row.actor) for row in rows] == [
        ("chosen", (0, 0)), ("chosen", (1, 1, 1)), ("rejected", (0, 0)), ("rejected", (1, 1))
    ]  # fmt: skip
    assert rows[0].values["credit"] == pytest.approx(
        by_hand(tiny.tiny(seed=0), tiny.tiny(seed=1), [3, 4, 1], 1)["credit"], abs=1e-5
    )
    wanted = by_hand(tiny.tiny(seed=2), tiny.tiny(seed=1), [4, 5, 6, 1], 1)
    assert rows[1].values["credit"] == pytest.approx(wanted["credit"], abs=1e-5)
    with pytest.raises(InputError, match=r"^rows of actor 1, and the run has 1 model: give the other with --partner"):
        rows_of(tmp_path, models, data)


@pytest.mark.parametrize("lacks", ["critic", "ref"])
def test_what_one_model_of_a_pipeline_does_not_say_is_left_out_and_no_zero(tmp_path, models, lacks):
    steps = [
        [{"actor": actor, "prompt": "w3", "completion": word} for actor in ("model", "partner")]
        for word in ("w4", "w5")
    ]
    critic = save_reward_model(tiny.tiny(value_head=True), load.tokenizer(models["m"]), tmp_path / "critic")
    more = {"critic": str(critic), "partner": models["g"], "partner_ref": models["r"]}
    more |= {"alternatives": 0, "ref": None, "beta": None} if lacks == "ref" else {}
    rows, _ = rows_of(tmp_path, models, [{"chosen_steps": steps[0], "rejected_steps": steps[1]}], **more)
    own, compared = {"logp", "entropy"}, {"ref_logp", "ref_entropy", "kl", "ratio"}
    compared |= {"credit"} if lacks == "critic" else set()
    wanted = (own | {"value"} | (compared if lacks == "critic" else set()), own | compared)
    assert [set(row.values) for row in rows] == [*wanted, *wanted]
    assert all(set(row.totals) <= {*row.values, "length"} for row in rows)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"partner": "g", "partner_ref": "r"}, r"partner = .*g writes steps of a pipeline: .*data.jsonl has none"),
        ({"partner_ref": "r"}, r"partner_ref = .*r is the reference of a partner, and there is none: give --partner"),
    ],
)
def test_a_partner_that_nobody_would_hear_is_refused(tmp_path, models, more, message):
    pair = {"prompt": "w3", "chosen": "w4", "rejected": "w5"}
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path, models, [pair], **{name: models[which] for name, which in more.items()})


def test_what_sample_printed_is_read_back(tmp_path, models):
    """A text cut at the limit has no end token; the score becomes the row's; spans become errors."""
    data = [
        {"prompt": "w3", "completion": "w4 w5", "tokens": 2, "finish": "length", "logp": -1.0, "score": 0.5},
        {"prompt": "w3", "completion": "w4 w5", "tokens": 3, "finish": "stop", "logp": -1.0, "score": 0.25,
         "wrong_spans": [[3, 5, "slip"]]},
    ]  # fmt: skip
    (cut, whole), about = rows_of(tmp_path, models, data)
    assert cut.tokens == (" w4", " w5") and whole.tokens == (" w4", " w5", "<eos>")
    assert (cut.totals["score"], whole.totals["score"]) == (0.5, 0.25)
    assert cut.wrong is None and whole.wrong == ("", "slip", "") and about["counts"]["wrong_tokens"] == 1


def test_texts_that_are_read_in_other_tokens_than_were_sampled_are_counted(tmp_path, models):
    tokens = [3, 4, 5, tiny.EOS]
    logp = sum(by_hand(tiny.tiny(seed=0), tiny.tiny(seed=1), tokens, 1)["logp"])
    text = {"prompt": "w3", "completion": "w4 w5"}
    data = [{**text, "tokens": 3, "logp": logp}, {**text, "tokens": 4, "logp": logp - 1}, {**text, "tokens": [4, 5]}]
    data += [{**text, "tokens": True, "logp": math.nan}]  # no numbers of anything
    _, about = rows_of(tmp_path, models, data)
    assert [n[:n.index(" (")] for n in about["notes"] if "than their rows say" in n] == [
        "1 of 2 texts have another number of tokens than their rows say",
        "1 of 2 texts have another Σ log π than their rows say",
    ]  # fmt: skip
    assert not any("rows say" in n for n in rows_of(tmp_path, models, data[:1])[1]["notes"])
    assert not any("rows say" in n for n in rows_of(tmp_path, models, data[1:2], max_tokens=3)[1]["notes"])  # cut


def test_errors_of_transcripts_are_counted_from_behind_the_last_speaker(tmp_path, models):
    start = "\n\nHuman: w3\n\nAssistant: w5\n\nHuman: w4\n\nAssistant:"
    data = [{"chosen": f"{start} w5 w6", "rejected": f"{start} w7 w8", "rejected_spans": [[4, 6, "x"]]}]
    (chosen, rejected), _ = rows_of(tmp_path, models, data)
    assert chosen.wrong is None and rejected.wrong == ("", "x", "")


def test_rows_of_turns_without_errors_may_have_the_column(tmp_path, models):
    turns = [{"role": "assistant", "content": "w4"}]
    (row,), _ = rows_of(tmp_path, models, [{"prompt": "w3", "turns": turns, "spans": []}])
    assert row.wrong is None


def test_errors_of_messages_are_counted_in_the_last_one(tmp_path, chatty):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a b"}]
    path = runs.jsonl(tmp_path / "m.jsonl", [{"messages": messages, "spans": [[2, 3, "x"]]}])
    given = read(path, tokenizer=chatty, limits=Limits())
    batch = batch_of(given.examples, pad_id=given.pad)
    (row,) = token_rows(texts(given, given.examples), batch, {}, encoder=given.data.encoder)
    assert "".join(token for token, kind in zip(row.tokens, row.wrong, strict=True) if kind).strip() == "b"


def test_errors_that_find_no_tokens_are_counted(tmp_path, models):
    data = [{"prompt": "w3", "completion": "w4 zebra", "spans": [[0, 2, "x"]]}]  # the tokenizer has no zebra
    (row,), about = rows_of(tmp_path, models, data)
    assert row.wrong is None and any("1 texts have marked errors that could not be placed" in n for n in about["notes"])


# --- recipes ------------------------------------------------------------------------------------------------------


def test_the_token_weight_of_dpo_is_one_number_along_a_response(tmp_path, models):
    """±β·σ(−z), z the difference of the summed credits: a push in loss units, however many pairs there are."""
    data = [
        {"prompt": "w3 w4", "chosen": "w5 w6 w7", "rejected": "w8"},
        {"prompt": "w9", "chosen": "w5", "rejected": "w6"},
    ]
    rows, about = rows_of(tmp_path, models, data, recipe=build("dpo", beta=BETA))
    for chosen, rejected in zip(rows[::2], rows[1::2], strict=True):
        z = chosen.totals["credit"] - rejected.totals["credit"]
        push = BETA / (1 + math.exp(z))
        assert chosen.values["weight"] == pytest.approx([push] * len(chosen.tokens), rel=1e-4)
        assert rejected.values["weight"] == pytest.approx([-push] * len(rejected.tokens), rel=1e-4)
        assert "reward" not in chosen.values and "advantage" not in chosen.values
    assert about["recipe"]["units"] == 2 and about["values"]["weight"]["unit"] == "loss"
    assert about["values"]["credit"]["unit"] == "reward"


def test_the_rewards_advantages_and_weights_of_rto_by_hand(tmp_path, models):
    """r_t = β_guide·log π_guide/π_ref − β_kl·log π/π_ref, the score at the end; with V = 0, A_t = Σ_k λ^k r_{t+k}.

    Whitened over all tokens. At ratio 1 the clipped loss, a mean over the 5 tokens of 2 texts, pushes by A·2/5.
    """
    data = [
        {"prompt": "w3 w4", "completion": "w5 w6", "score": 0.75},
        {"prompt": "w9", "completion": "w7", "score": -1.0},
    ]
    recipe = build("rto", beta_guide=0.2, beta_kl=0.1, lam=0.5)
    valued = tiny.tiny(seed=2, value_head=True)
    torch.nn.init.zeros_(valued.value_head.weight)
    critic = str(save_reward_model(valued, load.tokenizer(models["m"]), tmp_path / "critic"))
    rows, about = rows_of(tmp_path, models, data, recipe=recipe, guide=models["g"], critic=critic)
    policy, reference, guide = (tiny.tiny(seed=seed) for seed in (0, 1, 2))
    plain = []
    for row, prompt, answer in zip(rows, ([3, 4], [9]), ([5, 6, 1], [7, 1]), strict=True):
        ours, theirs, its = (laws(who, prompt + answer) for who in (policy, reference, guide))
        wanted = []
        for t, token in enumerate(answer, start=len(prompt)):
            wanted.append(0.2 * (its[t, token] - theirs[t, token]) - 0.1 * (ours[t, token] - theirs[t, token]))
        wanted[-1] += row.totals["score"]
        assert row.values["reward"] == pytest.approx(wanted, abs=1e-5)
        assert row.values["value"] == (0.0,) * len(answer)  # a critic's head of zeros
        assert row.totals["reward"] == pytest.approx(sum(wanted), abs=1e-5)
        plain += [sum(0.5 ** (k - t) * wanted[k] for k in range(t, len(wanted))) for t in range(len(wanted))]
    white = (np.array(plain) - np.mean(plain)) / np.std(plain)
    found = [x for row in rows for x in row.values["advantage"]]
    assert found == pytest.approx(white.tolist(), abs=1e-4)
    weights = [x for row in rows for x in row.values["weight"]]
    assert weights == pytest.approx((white * 2 / 5).tolist(), abs=1e-4)
    assert about["recipe"]["units"] == 2


def test_the_note_counts_the_pairs_that_a_recipe_makes_of_texts(tmp_path, models):
    data = [{"prompt": p, "completion": c, "score": s} for p in ("w3", "w4") for c, s in (("w5", 1.0), ("w6", 0.0))]
    _, about = rows_of(tmp_path, models, data, recipe=build("rebel"))
    assert "recipe rebel: 2 pairs taken as one batch" in about["notes"] and about["recipe"]["units"] == 2


def test_one_text_is_too_few_for_mismatched_answers(tmp_path, models):
    with pytest.raises(InputError, match=r"recipe kto pairs each prompt .*data.jsonl gives one text: give two or more"):
        rows_of(tmp_path, models, [{"prompt": "w3", "completion": "w4", "label": True}], recipe=build("kto"))


def test_groups_of_a_prompt_are_compared_though_they_stand_apart(tmp_path, models):
    """rloo: the advantage of a text is its reward less the mean of the others of its prompt."""
    data = [{"prompt": p, "completion": c, "score": s} for p, c, s in
            [("w3", "w5", 1.0), ("w4", "w5", 2.0), ("w3", "w6", 0.0), ("w4", "w6", -1.0)]]  # fmt: skip
    rows, _ = rows_of(tmp_path, models, data, recipe=build("rloo", beta_kl=0.0))
    assert [row.prompt for row in rows] == ["w3", "w3", "w4", "w4"]
    assert [row.values["advantage"][0] for row in rows] == pytest.approx([1.0, -1.0, 3.0, -3.0])


# --- the lab ------------------------------------------------------------------------------------------------------


def test_in_the_lab_credit_of_the_optimum_is_the_exact_optimal_advantage():
    """A*(s, a) = V*(s·a) − V*(s) with r at the leaf, V* = τ log Σ π_ref exp(Q/τ), by recursion over prefixes."""
    world = default_world()
    rows = lab_rows(policy_with(world.target, tree=world.tree), world)
    tree, tau = world.tree, world.tau
    leaves = [tuple(tree.tokens[i, : int(tree.length[i])].tolist()) for i in range(tree.leaves)]
    for prompt in range(2):
        ref, reward = world.ref[prompt].numpy(), world.reward[prompt].numpy()

        def value(prefix, ref=ref, reward=reward):
            inside = [i for i, leaf in enumerate(leaves) if leaf[: len(prefix)] == prefix]
            mass = sum(ref[i] for i in inside)
            return tau * math.log(sum(ref[i] / mass * math.exp(reward[i] / tau) for i in inside))

        for i, leaf in enumerate(leaves):
            row = rows[prompt * len(leaves) + i]
            wanted = [value(leaf[: t + 1]) - value(leaf[:t]) for t in range(len(leaf))]
            assert row.values["credit"] == pytest.approx(wanted, abs=1e-10)
            assert row.totals["credit"] == pytest.approx(row.totals["score"] - value(()), abs=1e-10)
            assert row.tokens == tuple(map(str, leaf))


def test_lab_rows_have_the_values_of_any_policy_and_beta():
    world = default_world()
    law = torch.softmax(torch.arange(30, dtype=torch.float64).view(2, 15).sin(), -1)
    row = lab_rows(policy_with(law, tree=world.tree), world, beta=2.0)[17]
    leaf = world.tree.tokens[2, : int(world.tree.length[2])].tolist()
    first = law[1][[i for i in range(15) if int(world.tree.tokens[i, 0]) == leaf[0]]].sum()
    assert row.values["logp"][0] == pytest.approx(math.log(first))
    assert row.values["credit"] == pytest.approx([2 * x for x in row.values["ratio"]])
    roots = [law[1][[i for i in range(15) if int(world.tree.tokens[i, 0]) == a]].sum().item() for a in range(3)]
    assert row.values["entropy"][0] == pytest.approx(-sum(p * math.log(p) for p in roots))
    kl = sum(p * math.log(p / q) for p, q in zip(roots, [
        world.ref[1][[i for i in range(15) if int(world.tree.tokens[i, 0]) == a]].sum().item() for a in range(3)
    ], strict=True))  # fmt: skip
    assert row.values["kl"][0] == pytest.approx(kl)


def test_a_policy_that_never_writes_an_answer_has_finite_numbers_of_the_others(tmp_path):
    world = default_world()
    law = world.ref.clone()
    law[:, 0] = 0
    law /= law.sum(-1, keepdim=True)
    never, other, *_ = rows = lab_rows(policy_with(law, tree=world.tree), world)
    assert None in never.values["logp"] and "credit" not in never.totals and "kl" in never.totals
    share = (law[0][:, None] * (world.tree.tokens[:, :1] == torch.arange(3))).sum(0).tolist()
    assert other.values["entropy"][0] == pytest.approx(-sum(p * math.log(p) for p in share if p))
    assert all(x is not None for row in rows for name in ("kl", "entropy") for x in row.values[name])
    assert write_rows(tmp_path / "lab.jsonl", rows) == len(rows)


def test_rows_of_two_actors_are_told_apart():
    policy, other, batch = tiny.tiny(seed=0), tiny.tiny(seed=2), tiny.batch()
    two = replace(batch, actor=torch.tensor([0, 1, 0, 1])[:, None].expand(batch.tokens.shape).contiguous())
    found = columns_of([Models(policy), Models(other)], two)["logp"]
    one, second = columns(Models(policy), batch)["logp"], columns(Models(other), batch)["logp"]
    assert torch.allclose(found[[0, 2]], one[[0, 2]]) and torch.allclose(found[[1, 3]], second[[1, 3]])
    assert not torch.allclose(found[1], one[1])


def test_every_key_of_both_files_is_documented(tmp_path, models):
    page = (ROOT / "docs" / "lens.md").read_text(encoding="utf-8")
    rows, about = rows_of(tmp_path, models, [{"prompt": "w3", "completion": "w4", "spans": []}])
    names = [*about, *about["data"], *about["counts"], *MEANINGS, *(f.name for f in fields(TokenRow)), *rows[0].totals]
    assert [name for name in names if f"`{name}`" not in page] == []
