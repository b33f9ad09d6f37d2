"""The planted faults of `mutate.py`: in which file what text becomes which, what that breaks, which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass

LAWS = ("tests/objective",)
FORWARD = ("tests/test_forward.py",)


@dataclass(frozen=True)
class Fault:
    """`old` must stand exactly once in `file`; one of the fast tests in `tests` must fail once `new` stands there."""

    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...] = LAWS


OBJECTIVE = "src/tokenward/objective"

LINKS = [
    Fault(f"{OBJECTIVE}/links.py", "logsigmoid(-z - self.margin)", "logsigmoid(z - self.margin)",
          "logistic: the second answer's term has the first one's sign"),
    Fault(f"{OBJECTIVE}/links.py", "-target * logsigmoid(z - self.margin)", "-target * logsigmoid(z + self.margin)",
          "logistic: SimPO's margin helps instead of asking more"),
    Fault(f"{OBJECTIVE}/links.py", " - torch.xlogy(1 - target, 1 - target)", "",
          "Bernoulli KL: half of the entropy is missing"),
    Fault(f"{OBJECTIVE}/links.py", "(1 - target) * (z + self.margin) ** 2", "(1 - target) * (z - self.margin) ** 2",
          "IPO: the losing side regresses on +m"),
    Fault(f"{OBJECTIVE}/links.py", "(1 - target) * torch.relu(self.margin + z)", "(1 - target) * torch.relu(self.margin - z)",
          "hinge: soft labels are ignored"),
    Fault(f"{OBJECTIVE}/links.py", "0.5 * torch.maximum(plain", "0.5 * torch.minimum(plain",
          "value clip: optimistic instead of pessimistic"),
    Fault(f"{OBJECTIVE}/links.py", "torch.maximum(-target * ratio", "torch.minimum(-target * ratio",
          "ratio clip: optimistic instead of pessimistic"),
    Fault(f"{OBJECTIVE}/links.py", "clamp(1 - self.low, 1 + self.high)", "clamp(1 - self.high, 1 + self.low)",
          "ratio clip: low and high exchanged"),
    Fault(f"{OBJECTIVE}/links.py", "ratio * z / self.eta", "z / self.eta",
          "mirror descent: KL(π_old‖π) instead of KL(π‖π_old)"),
    Fault(f"{OBJECTIVE}/links.py", "self.undesirable * torch.sigmoid(z)", "self.desirable * torch.sigmoid(z)",
          "KTO: λ_U is λ_D"),
    Fault(f"{OBJECTIVE}/links.py", "(torch.sigmoid(z) - target) ** 2", "(z - target) ** 2",
          "UNA: the score is compared with the implicit reward itself"),
    Fault(f"{OBJECTIVE}/divergences.py", "torch.exp((-z).clamp(max=20.0)) - 1 + z", "torch.exp(z.clamp(max=20.0)) - 1 - z",
          "k3: direction of the KL turned round"),
    Fault(f"{OBJECTIVE}/divergences.py", 'if kl == "reward" and beta_kl else', "if beta_kl else",
          "a KL in the loss counts in the reward too"),
    Fault(f"{OBJECTIVE}/divergences.py", 'link = K2() if kl == "loss_k2" else K3()', "link = K2()",
          "loss_k3 is loss_k2"),
]  # fmt: skip

STAGE_ONE = [
    Fault(f"{OBJECTIVE}/rewards.py", "at_end = column == last(batch.mask)[:, None]", "at_end = column == batch.length[:, None] - 1",
          "the score lands on the last token instead of the last trainable one"),
    Fault(f"{OBJECTIVE}/rewards.py", "-self.coef * ratio", "self.coef * ratio",
          "KL in the reward pays for leaving the reference"),
    Fault(f"{OBJECTIVE}/rewards.py", '- ask(stats, "guide_ref_logp", by=self)', '- ask(stats, "guide_ref_logp", by=self) * 0',
          "RTO: the guide's reference is forgotten"),
    Fault(f"{OBJECTIVE}/rewards.py", "else signal.reward + total", "else total",
          "a reward step replaces what stood there"),
    Fault(f"{OBJECTIVE}/rewards.py", "reward.clamp(-self.clip, self.clip)", "reward.clamp(max=self.clip)",
          "RTO's guide clip cuts one side only"),
    Fault(f"{OBJECTIVE}/advantages.py", "now = delta + gamma * lam * ahead", "now = delta + lam * ahead",
          "GAE: γ missing in the recursion"),
    Fault(f"{OBJECTIVE}/advantages.py", "next_value = torch.where(mask[:, t], value[:, t], next_value)", "next_value = value[:, t]",
          "GAE: the next state is the next position, trainable or not"),
    Fault(f"{OBJECTIVE}/advantages.py", "ahead = torch.where(mask[:, t], now, ahead)", "ahead = torch.where(mask[:, t], now, 0.0)",
          "GAE: a gap of tool tokens cuts the return"),
    Fault(f"{OBJECTIVE}/advantages.py", "/ (1 - 1 / size)", "/ (1 + 1 / size)",
          "leave-one-out: wrong factor"),
    Fault(f"{OBJECTIVE}/advantages.py", "weight = batch.weight.to(x.dtype) * (count(batch.mask) > 0)", "weight = torch.ones_like(x)",
          "group mean ignores row weights"),
    Fault(f"{OBJECTIVE}/advantages.py", "spread = (total - mean[groups]) ** 2", "spread = (total - mean[groups]).abs()",
          "GRPO's std is a mean absolute deviation's root"),
    Fault(f"{OBJECTIVE}/advantages.py", "centered = advantage - (weight * advantage).sum() / total", "centered = advantage - advantage.mean()",
          "whitening counts padding"),
    Fault(f"{OBJECTIVE}/advantages.py", "point = ratio[probe].mean().clamp(min=0)", "point = ratio[probe].mean()",
          "KTO's point may be negative"),
    Fault(f"{OBJECTIVE}/advantages.py", "point = ratio[probe].mean()", "point = ratio.mean()",
          "KTO's point is taken over all rows, not the probes"),
]  # fmt: skip

TERMS = [
    Fault(f"{OBJECTIVE}/terms.py", "return self.beta * (logp - ask", "return (logp - ask",
          "β of a log-ratio is lost"),
    Fault(f"{OBJECTIVE}/terms.py", 'pool = row_sum if self.pool == "sum" else row_mean', "pool = row_sum",
          "averaged log-ratios are summed"),
    Fault(f"{OBJECTIVE}/terms.py", "score[pairs[:, 0]], score[pairs[:, 1]]", "score[pairs[:, 1]], score[pairs[:, 0]]",
          "winner and loser exchanged"),
    Fault(f"{OBJECTIVE}/terms.py", "return loss.sum() if batch.pair_weight is None else (batch.pair_weight * loss).sum()", "return loss.sum()",
          "pair weights do not enter the sum"),
    Fault(f"{OBJECTIVE}/terms.py", "            return batch.pair_weight.sum()\n", "            return torch.ones_like(batch.pair_weight).sum()\n",
          "pair weights do not enter the divisor"),
    Fault(f"{OBJECTIVE}/terms.py", "torch.where(batch.weight > 0, batch.weight * loss,", "torch.where(batch.weight > 0, loss,",
          "row weights do not enter row terms"),
    Fault(f"{OBJECTIVE}/terms.py", "z = z + self.offset.rows", "z = z - self.offset.rows",
          "offsets (V, log Z, KTO's point) with the wrong sign"),
    Fault(f"{OBJECTIVE}/terms.py", 'ask(stats, "value", by=self) - ask(stats, "old_value", by=self).detach()', 'ask(stats, "value", by=self)',
          "the critic's step is measured from 0"),
    Fault(f"{OBJECTIVE}/targets.py", "(1 - self.smoothing) * p + self.smoothing * (1 - p)", "(1 - self.smoothing) * p",
          "cDPO: no mass for the other answer"),
    Fault(f"{OBJECTIVE}/targets.py", "return score[pairs[:, 0]] - score[pairs[:, 1]]", "return score[pairs[:, 1]] - score[pairs[:, 0]]",
          "RDA: the reward gap with the wrong sign"),
    Fault(f"{OBJECTIVE}/targets.py", "return -self.beta * ask", "return -ask",
          "KTO's point in nats instead of reward units"),
    Fault(f"{OBJECTIVE}/weights.py", "return weight / count(mask, weight.dtype).clamp(min=1)", "return weight",
          "sequence_mean sums"),
    Fault(f"{OBJECTIVE}/weights.py", "return (weight * count(mask, weight.dtype)).sum()", "return count(mask, weight.dtype).sum()",
          "token_mean divides by unweighted tokens"),
    Fault(f"{OBJECTIVE}/recipe.py", "parts = [term.coef * sums", "parts = [sums",
          "coefficients of terms are dropped"),
    Fault(f"{OBJECTIVE}/recipe.py", "        stats = stats.masked(batch.mask)\n", "",
          "padding reaches the terms"),
    Fault(f"{OBJECTIVE}/recipe.py", "else -gradient", "else gradient",
          "token weight with the wrong sign"),
    Fault("src/tokenward/masking.py", "return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))", "return x * mask",
          "padding is cut out by multiplying"),
    Fault("src/tokenward/types.py", 'place.to(old["pairs"].device)[old["pairs"]]', 'old["pairs"]',
          "pairs of a micro-batch point at rows of the batch"),
]  # fmt: skip

RECIPES = [
    Fault("src/tokenward/recipes/preference.py", 'pool="mean"), link=Logistic(margin=gamma)', 'pool="sum"), link=Logistic(margin=gamma)',
          "SimPO sums log-probabilities"),
    Fault("src/tokenward/recipes/preference.py",
          'margin=1 / (2 * beta)), target=Won())\n    return Recipe("ipo",', 'margin=1 / beta), target=Won())\n    return Recipe("ipo",',
          "IPO regresses on 1/β"),
    Fault("src/tokenward/recipes/regression.py", "beta=1 / eta", "beta=eta",
          "REBEL: η upside down"),
]  # fmt: skip

MODELS = [
    Fault("src/tokenward/models/forward.py", "states = hidden[rows, columns - 1]", "states = hidden[rows, columns]",
          "a token is scored by the state after it", FORWARD),
    Fault("src/tokenward/models/forward.py", "logits = self.logits(states) / temperature", "logits = self.logits(states)",
          "the policy's temperature is forgotten", FORWARD),
    Fault("src/tokenward/models/forward.py", "(reference.logits(ref_states) / temperature)", "(reference.logits(ref_states))",
          "the reference's temperature is forgotten in the exact KL", FORWARD),
    Fault("src/tokenward/models/forward.py", "(law.exp() * (law - ref)).sum(-1)", "(ref.exp() * (ref - law)).sum(-1)",
          "exact KL in the other direction", FORWARD),
    Fault("src/tokenward/models/forward.py", 'out["entropy"] = -(law.exp() * law).sum(-1)', 'out["entropy"] = (law.exp() * law).sum(-1)',
          "entropy with the wrong sign", FORWARD),
    Fault("src/tokenward/models/forward.py", "hidden[every, (batch.length - 1).clamp(min=0)]", "hidden[every, (batch.length - 2).clamp(min=0)]",
          "a reward model reads the state before the last token", FORWARD),
    Fault("src/tokenward/models/forward.py", "hidden[every, (batch.length - 1).clamp(min=0)]", "hidden[every, -1]",
          "a reward model reads padding", FORWARD),
    Fault("src/tokenward/models/forward.py", "self._cap * torch.tanh(out / self._cap)", "torch.tanh(out / self._cap)",
          "Gemma's soft cap caps at 1", FORWARD),
    Fault("src/tokenward/models/forward.py", "wrong = (columns == 0) | (columns >= batch.length[rows])", "wrong = columns == 0",
          "padding may be marked as trainable", FORWARD),
    Fault("src/tokenward/models/forward.py",
          "with torch.no_grad(), self._other(reference):\n                        ref_states", "with torch.no_grad():\n                        ref_states",
          "exact KL under LoRA: the reference keeps its adapters", ("tests/test_forward.py", "tests/test_load.py", "tests/test_roles.py")),
    Fault("src/tokenward/models/roles.py",
          "with adapters_off(self.policy):\n                return self._logp(self.policy, batch)", "return self._logp(self.policy, batch)",
          "LoRA: the policy is its own reference", ("tests/test_roles.py",)),
    Fault("src/tokenward/models/roles.py", 'if self.guide_ref is None and "ref_logp" in out', 'if "ref_logp" in out',
          "the guide's own reference is ignored", ("tests/test_roles.py",)),
]  # fmt: skip

COLLATE, TOKENIZE = ("tests/test_collate.py",), ("tests/test_tokenize.py",)

MASKS = [
    Fault("src/tokenward/data/collate.py", "torch.tensor(line.trainable, dtype=torch.bool)", "True",
          "tokens of a tool are trained on", COLLATE),
    Fault("src/tokenward/data/collate.py", "mask[row, start:end] = torch.tensor(line.trainable, dtype=torch.bool)", "mask[row, :end] = True",
          "the prompt is trained on", COLLATE),
    Fault("src/tokenward/data/collate.py", "(True,) * n, _FINISH[response.finish]", "(True,) * (n - 1) + (False,), _FINISH[response.finish]",
          "the end token is not trained on", COLLATE),
    Fault("src/tokenward/data/collate.py", "        mask=mask,\n", "        mask=mask & (tokens != pad_id),\n",
          "the mask comes from token identity", COLLATE),
    Fault("src/tokenward/data/collate.py", "torch.arange(2 * len(pairs)).view(-1, 2)", "torch.arange(2 * len(pairs)).view(-1, 2).flip(-1)",
          "the rejected answer wins", COLLATE),
    Fault("src/tokenward/data/collate.py", "b is not None and b > a", "b is not None and b < a",
          "of two rollouts the worse comes first", COLLATE),
    Fault("src/tokenward/data/collate.py", "        start = len(r.prompt_tokens)\n", "        start = len(r.prompt_tokens) - 1\n",
          "the sampler's log-probabilities are shifted by one", COLLATE),
    Fault("src/tokenward/data/collate.py", "weight += [0.0] * len(rows)", "weight += [1.0] * len(rows)",
          "mismatched answers are trained on", COLLATE),
    Fault("src/tokenward/data/collate.py", 'if scope in ("pair", "group") and batch.pairs is not None', 'if scope == "group" and batch.pairs is not None',
          "micro-batches cut pairs apart", COLLATE),
    Fault("src/tokenward/data/tokenize.py", 'Response(_shared(ids[:room]), "length")', 'Response(_shared(ids[:room]), "stop")',
          "a cut response counts as finished", TOKENIZE),
    Fault("src/tokenward/data/tokenize.py", "ids[len(ids) - tail :]", "ids[keep : keep + tail]",
          "a long prompt loses its end", TOKENIZE),
    Fault("src/tokenward/data/tokenize.py", "if chosen.tokens == rejected.tokens:", "if False:",
          "pairs that truncation made identical are kept", TOKENIZE),
    Fault("src/tokenward/data/boundary.py", "else (*ids, encoder.eos)), moved", "else ids), moved",
          "a response without its end token", TOKENIZE),
    Fault("src/tokenward/data/boundary.py", "return () if found.ids[: len(encoder.bos)] == encoder.bos else encoder.bos", "return encoder.bos",
          "a template's BOS is doubled", TOKENIZE),
    Fault("src/tokenward/data/boundary.py", "return joint.ids[n:] if parted else None", "return joint.ids[n:]",
          "a token that straddles the boundary moves the prompt", TOKENIZE),
    Fault("src/tokenward/data/encode.py", 'engine.encode_special_tokens = special == "text"', "engine.encode_special_tokens = False",
          "a literal <s> in data becomes the control token", TOKENIZE),
]  # fmt: skip

LAB_EXACT, LAB_TREE = ("tests/lab/test_exact.py",), ("tests/lab/test_tree.py",)
LAB_POLICY, LAB_WORLD = ("tests/lab/test_policy.py",), ("tests/lab/test_policy.py", "tests/lab/test_world_file.py")
LAB_REACHED = ("tests/lab/test_verify.py::test_recipes_reach_what_numpy_says",)

LAB = [
    Fault("src/tokenward/lab/exact.py", "v[:, level] = tau * torch.logsumexp(ref_logp[:, level] + q[:, level] / tau, dim=-1)",
          "v[:, level] = tau * torch.logsumexp(q[:, level] / tau, dim=-1)",
          "soft values against a uniform reference", LAB_EXACT),
    Fault("src/tokenward/lab/exact.py", "return torch.softmax(ref.log() + reward / tau, dim=-1)", "return torch.softmax(ref.log() + reward * tau, dim=-1)",
          "the Boltzmann target at temperature 1/τ", LAB_EXACT + LAB_REACHED),
    Fault("src/tokenward/lab/exact.py", "torch.xlogy(law, law) - torch.xlogy(law, ref)", "torch.xlogy(ref, ref) - torch.xlogy(ref, law)",
          "J_τ with the KL in the other direction", LAB_EXACT),
    Fault("src/tokenward/lab/exact.py", "return torch.softmax(ref.log() + (total + reward) / beta, dim=-1)", "return torch.softmax(ref.log() + total / beta + reward, dim=-1)",
          "RTO's target: the score is not divided by β_kl", LAB_EXACT),
    Fault("src/tokenward/lab/exact.py",
          "        logp[:, level] = torch.log_softmax(ref_logp[:, level] + q / beta, dim=-1)\n        v[:, level] = (logp[:, level].exp() * q).sum(-1)",
          "        logp[:, level] = torch.log_softmax(ref_logp[:, level] + q / beta, dim=-1)\n        v[:, level] = beta * torch.logsumexp(ref_logp[:, level] + q / beta, dim=-1)",
          "the myopic target looks ahead: it is the Boltzmann policy", LAB_EXACT),
    Fault("src/tokenward/lab/exact.py", "return float(0.5 * (law - other).abs().sum(-1).max())", "return float(0.5 * (law - other).abs().sum(-1).min())",
          "total variation of the best prompt, not the worst", LAB_EXACT),
    Fault("src/tokenward/lab/tree.py", "return torch.where(self.leaf >= 0, reward[:, self.leaf.clamp(min=0)], torch.zeros((), dtype=reward.dtype))",
          "return reward[:, self.leaf.clamp(min=0)]",
          "inner tokens earn the reward of the first leaf", LAB_TREE),
    Fault("src/tokenward/lab/tree.py", "path[-1] == eos or len(path) == horizon", "len(path) == horizon",
          "the end token does not end", LAB_TREE),
    Fault("src/tokenward/lab/tree.py", "return mass.log() - mass.sum(-1, keepdim=True).log()", "return mass.log()",
          "the token form of a law is not normalized", LAB_TREE),
    Fault("src/tokenward/lab/policy.py", "weight=(world.weight[:, None] * rows).flatten()", "weight=rows.flatten()",
          "prompts weigh the same in the lab", LAB_POLICY),
    Fault("src/tokenward/lab/policy.py", "return law.detach()", "return world.ref",
          "on-policy rows are drawn from the reference", LAB_POLICY + LAB_REACHED),
    Fault("src/tokenward/lab/policy.py", "(table.exp() * (table - ref)).sum(-1)", "(ref.exp() * (ref - table)).sum(-1)",
          "the lab's exact KL in the other direction", LAB_POLICY),
    Fault("src/tokenward/lab/policy.py", "log_rest = torch.where(here, stats.old_logp[:, t] + log_rest, 0.0)", "log_rest = torch.where(here, stats.old_logp[:, t], 0.0)",
          "the exact critic forgets how likely later tokens are", LAB_POLICY),
    Fault("src/tokenward/lab/policy.py", "ahead = torch.where(here, signal.reward[:, t] + gamma * ahead, 0.0)", "ahead = torch.where(here, signal.reward[:, t] + ahead, 0.0)",
          "the exact critic forgets γ", LAB_POLICY),
    Fault("src/tokenward/lab/policy.py", "here.weight * world.weight[i]", "here.weight",
          "pairs do not weigh as their prompt does", LAB_POLICY),
    Fault("src/tokenward/lab/world.py", "return (1 - self.noise) * p + self.noise * (1 - p)", "return (1 - self.noise) * p + self.noise * p",
          "label noise does not flip labels", LAB_WORLD),
    Fault("src/tokenward/lab/world.py", "(reward[first] - reward[second]) / self.temperature", "(reward[first] - reward[second]) * self.temperature",
          "Bradley–Terry labels at the inverse temperature", LAB_WORLD),
    Fault("src/tokenward/lab/graph.py", "return torch.diag(off.sum(-1)) - off", "return torch.diag(off.sum(-1)) + off",
          "the Laplacian's sign", ("tests/lab/test_graph.py",)),
]  # fmt: skip

FAULTS = [*LINKS, *STAGE_ONE, *TERMS, *RECIPES, *MODELS, *MASKS, *LAB]
