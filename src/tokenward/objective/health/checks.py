"""The checks as data: what is read, the thresholds and whose they are, what a miss means and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from tokenward.objective.health import history
from tokenward.objective.health.history import WINDOW, History, Reading

Level = Literal["ok", "watch", "bad", "unknown"]
OURS = "our choice"


@final
@dataclass(frozen=True)
class Check:
    """One number of a run, and the two values beyond which (`side`) it is worth watching, or bad.

    `number` says in words what `reading` computes of the metrics in `reads`; `source` whose idea and whose thresholds.
    """

    name: str
    reads: tuple[str, ...]
    number: str
    reading: Reading
    side: Literal["above", "below"]
    watch: float
    bad: float
    source: str
    means: str
    do: str

    def find(self, told: History) -> Finding:
        """What the run's numbers say; "unknown" where they say nothing, and in a run that samples no text."""
        value = self.reading(told) if told.sampled else None
        return Finding(self, value, "unknown" if value is None else self.level(value))

    def level(self, value: float) -> Level:
        """Beyond `bad`, else beyond `watch`, else ok."""
        sign = 1 if self.side == "above" else -1
        return "bad" if sign * value > sign * self.bad else "watch" if sign * value > sign * self.watch else "ok"


@final
@dataclass(frozen=True)
class Finding:
    """A check and what it found in a run; `value` is None where it could not be read."""

    check: Check
    value: float | None
    level: Level

    @property
    def text(self) -> str:
        """One sentence with the number, and where it is not ok what that means and what to do."""
        check = self.check
        if self.value is None:
            return f"{check.number}: not known here (reads {', '.join(check.reads)})"
        limit = f"{check.side} {check.watch:g} is worth watching, {check.side} {check.bad:g} bad"
        number = f"{check.number} {self.value:.3g} ({limit})"
        return number if self.level == "ok" else f"{number}. {check.means} {check.do}"


def _mean(what: str) -> str:
    return f"{what}, mean of the last {WINDOW}"


QUARTERS = tuple(f"kl/quarter_{i}" for i in (1, 2, 3, 4))

CHECKS: tuple[Check, ...] = (
    Check(
        "over-optimization", ("eval/reward", "eval/reward_se", "eval/proxy"),
        "fall of the held-out reward from its best, in standard errors, while the proxy has not fallen",
        history.held_out_fall, "above", 2.0, 4.0,
        "the effect: Gao et al. 2023; thresholds: our choice",
        "The run earns what its reward pays for and loses what was meant.",
        "Stop here and take best/model; then mend the reward, or raise beta_kl.",
    ),
    Check(
        "constant-score", ("score_std",), _mean("spread of the scores in a batch, where no guide rewards tokens"),
        history.unless("guide", history.late("score_std")), "below", 1e-3, 1e-6, OURS,
        "All completions get the same score, so there is nothing to learn.",
        "Look at the reward on a few texts: a function that fails silently gives one value.",
    ),
    Check(
        "zero-variance-groups", ("groups/zero_spread",), _mean("share of prompts whose answers all score the same"),
        history.late("groups/zero_spread"), "above", 0.5, 0.9,
        "that such groups are wasted: Yu et al. 2025 (DAPO); thresholds: our choice",
        "Answers of equal score have advantage 0: most rollouts teach nothing.",
        "Take prompts of middling difficulty, larger groups, or a recipe that drops such groups (dapo).",
    ),
    Check(
        "kl", ("kl", "completions/length"), _mean("KL to the reference, nats a token"), history.kl_per_token,
        "above", 0.5, 1.0, "watching KL rather than reward: Zheng et al. 2023 (PPO-max); thresholds: our choice",
        "The policy is far from its reference, where a reward model has seen nothing.",
        "Raise beta_kl or lower the learning rate, and look at texts.",
    ),
    Check(
        "negative-kl", ("kl",), _mean("sampled KL of a text, nats"), history.late("kl"), "below", -0.1, -1.0, OURS,
        "A KL is never negative: its estimate is when texts are drawn from another law than the policy's.",
        "Leave out top_k and top_p, and look at sampler/gap_mean.",
    ),
    Check(
        "kl-in-one-place", QUARTERS, _mean("share of the KL in one quarter of the text"), history.one_quarter,
        "above", 0.6, 0.8, OURS,
        "The policy has moved in one place of its texts: often an opening phrase, or when to stop.",
        "See which tokens moved: tokenward credit.",
    ),
    Check(
        "ratio-tail", ("policy/ratio_far",), _mean("share of tokens whose ratio to the old policy is beyond 2 or 1/2"),
        history.late("policy/ratio_far"), "above", 0.01, 0.05, OURS,
        "Steps on one batch move the policy further than its samples can tell.",
        "Lower the learning rate, epochs, or the number of updates on a batch.",
    ),
    Check(
        "largest-ratio", ("policy/ratio_max",), f"largest ratio of a token in the last {WINDOW} updates",
        history.largest("policy/ratio_max"), "above", 10.0, 100.0,
        "that a clip does not bound the ratio: Engstrom et al. 2020; thresholds: our choice",
        "Single tokens leave the trust region; where their advantage is negative, a clip does not cut them.",
        "Lower the learning rate, or give the recipe a dual clip.",
    ),
    Check(
        "clip-share", ("clip_ratio/low", "clip_ratio/high"), _mean("share of tokens whose gain is clipped"),
        history.total("clip_ratio/low", "clip_ratio/high"), "above", 0.3, 0.5, OURS,
        "Much of a batch gives no gradient any more. (Clips on the ratio of whole rows, gspo's, cut more by design.)",
        "Take fewer updates on a batch, or a smaller learning rate.",
    ),
    Check(
        "step-kl", ("policy/kl_old",), _mean("KL to the policy before the batch, nats a token"),
        history.late("policy/kl_old"), "above", 0.05, 0.2, OURS,
        "Each batch moves the policy by much.", "Lower the learning rate or the number of updates on a batch.",
    ),
    Check(
        "critic", ("critic/vf_explained_var",), _mean("variance of the returns that the critic explains"),
        history.late("critic/vf_explained_var", least=2 * WINDOW), "below", 0.2, 0.0,
        "at 0 a constant does as well (by definition); the higher threshold: our choice",
        "The critic knows little of what is to come; advantages are noise around the returns.",
        "Raise critic_learning_rate, give critic_warmup, start the critic from the reward model, or use no critic.",
    ),
    Check(
        "entropy-falls", ("entropy",), f"entropy, mean of the last {WINDOW} ÷ the first {WINDOW}",
        history.change("entropy"), "below", 0.3, 0.1, OURS,
        "The policy writes ever the same: nothing new is tried.",
        "Raise beta_kl, lower the learning rate, and look at completions/duplicates.",
    ),
    Check(
        "entropy-rises", ("entropy",), f"entropy, mean of the last {WINDOW} ÷ the first {WINDOW}",
        history.change("entropy"), "above", 1.5, 2.5, OURS,
        "The policy becomes noise.", "Lower the learning rate and any entropy bonus; look at texts.",
    ),
    Check(
        "length-drift", ("completions/length",), f"length, last {WINDOW} against first {WINDOW}, factor up or down",
        history.drift("completions/length"), "above", 1.5, 3.0,
        "watching length: Zheng et al. 2023 (PPO-max); thresholds: our choice",
        "Texts have become much longer or shorter.",
        "Read the length-adjusted gain: where length explains the gain, the reward pays for length.",
    ),
    Check(
        "gain-by-length", ("score", "score_std", "completions/length", "score/length_slope"),
        "share of the score's gain that length explains", history.gain_by_length, "above", 0.5, 0.9,
        "the question: Singhal et al. 2023; computation and thresholds: our choice",
        "Most of what the score gained, texts of that length had before training.",
        "Take length out of the reward, or add a penalty (reward length:N).",
    ),
    Check(
        "score-by-length", ("score/length_corr",), _mean("size of the correlation of score and length in a batch"),
        history.size("score/length_corr"), "above", 0.6, 0.9, OURS,
        "Within a batch the score hardly says more than the length does.",
        "Look whether the reward is meant to; else balance its training data by length.",
    ),
    Check(
        "cut", ("completions/clipped_ratio",), _mean("share of completions cut at the limit"),
        history.late("completions/clipped_ratio"), "above", 0.1, 0.5, OURS,
        "Texts are scored before their end, and never learn to end.",
        "Raise max_new_tokens, or add a penalty for texts without an end (reward stop:P).",
    ),
    Check(
        "duplicates", ("completions/duplicates",),
        _mean("share of longer completions that repeat another of the batch"),
        history.late("completions/duplicates"), "above", 0.25, 0.75, OURS,
        "The same texts come again and again: the policy has collapsed, or prompts ask for one answer.",
        "Raise beta_kl or the temperature; look at the entropy.",
    ),
    Check(
        "repeats", ("completions/repeated",), _mean("share of 4-grams that a completion has said before"),
        history.late("completions/repeated"), "above", 0.1, 0.3,
        "the measure: Welleck et al. 2020; thresholds: our choice",
        "Texts repeat themselves.", "Look whether the reward pays for it; give a penalty, or raise beta_kl.",
    ),
    Check(
        "sampler-gap", ("sampler/gap_mean",), _mean("|log π_sampler − log π_trainer| of a token, nats"),
        history.late("sampler/gap_mean"), "above", 0.01, 0.1, OURS,
        "Sampler and trainer are two laws: ratios are off from the first step on.",
        "Leave out top_k and top_p, take one number format, or old_logp = sampler.",
    ),
)  # fmt: skip
BY_NAME = {check.name: check for check in CHECKS}
