"""Rewards of sampled completions: functions, reward models, checkers, and sums of them. A missing score is never 0."""

from tokenward.rollout.rewards.build import check, check_prompts, judge, reward, timed
from tokenward.rollout.rewards.combined import Combined, Part
from tokenward.rollout.rewards.function import FunctionReward
from tokenward.rollout.rewards.grammar import described
from tokenward.rollout.rewards.implicit import ImplicitReward
from tokenward.rollout.rewards.logged import logged
from tokenward.rollout.rewards.model import ModelReward
from tokenward.rollout.rewards.protocol import Reward, give
from tokenward.rollout.rewards.text import completion_text, token_ends

__all__ = [
    "Combined", "FunctionReward", "ImplicitReward", "ModelReward", "Part", "Reward", "check", "check_prompts",
    "completion_text", "described", "give", "judge", "logged", "reward", "timed", "token_ends",
]  # fmt: skip
