"""The planted faults of `mutate.py`: in which file what text becomes which, what that breaks, which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass

LAWS = ("tests/objective",)


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

FAULTS = [*LINKS, *STAGE_ONE, *TERMS, *RECIPES]
