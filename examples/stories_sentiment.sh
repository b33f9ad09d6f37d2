#!/usr/bin/env bash
# A story model made more cheerful: pairs sampled from the model itself and labeled by a sentiment reward, DPO, then PPO
# and RTO at the same budget, and all of them on held-out prompts.
#
#   examples/stories_sentiment.sh MODEL STORIES.txt LEXICON OUT
#
# MODEL: a small causal LM of TinyStories. STORIES.txt: stories with <|endoftext|> between them. LEXICON: VADER's
# vader_lexicon.txt or a zip that holds it. Environment: SAMPLES per prompt (8), UPDATES of PPO and of RTO (80), HELDOUT
# prompts (299), SEED (0).
set -euo pipefail
model=$1 stories=$2 out=$4
export VADER_LEXICON=$3
here=$(dirname "$0")
samples=${SAMPLES:-8} updates=${UPDATES:-80} heldout=${HELDOUT:-299} seed=${SEED:-0}
export OMP_NUM_THREADS=1 # two threads only get in the way of a model this small
reward="$here/vader_reward.py:reward"
mkdir -p "$out"

# Prompts: the first words of each story; held-out ones by a hash of the text.
python "$here/story_prompts.py" "$stories" "$out"
head -n "$heldout" "$out/heldout.jsonl" >"$out/asked.jsonl"

# Continuations of each prompt, scored; neighbors make pairs, labeled by Bradley–Terry draws on the score.
tokenward sample --model "$model" --prompts "$out/train.jsonl" --n "$samples" --max-new-tokens 48 --reward "$reward" --seed 1 \
  >"$out/samples.jsonl"
python "$here/label_pairs.py" "$out/samples.jsonl" "$out/pairs.jsonl"
tokenward data check "$out/pairs.jsonl" --tokenizer "$model"

tokenward train dpo --model "$model" --data "$out/pairs.jsonl" --out "$out/dpo" --seed "$seed" \
  --beta 0.1 --learning-rate 1e-4 --schedule linear --warmup-updates 10 --rows-per-update 32 --passes 1

# PPO, and RTO: PPO with the DPO policy's token rewards besides. Same reward, reference, completions and settings.
budget=(--reward "$reward" --data "$out/train.jsonl" --beta-kl 0.05 --max-new-tokens 48 --rollout-rows 128
  --mini-rows 64 --epochs 2 --updates "$updates" --learning-rate 1e-4 --critic own --critic-learning-rate 1e-3
  --schedule linear --seed "$seed")
tokenward train ppo --model "$model" --out "$out/ppo" "${budget[@]}"
tokenward train rto --model "$model" --out "$out/rto" --guide "$out/dpo/model" --beta-guide 0.05 "${budget[@]}"

# Mean reward, KL to the model and length on the held-out prompts, and differences prompt by prompt.
python "$here/held_out.py" "$model" "$out/asked.jsonl" "$reward" \
  before="$model" dpo="$out/dpo/model" ppo="$out/ppo/model" rto="$out/rto/model"
echo "completions scored for training: dpo $(wc -l <"$out/samples.jsonl"), ppo and rto $((updates * 32)) each; rto's guide is dpo"
tokenward report "$out/dpo" "$out/ppo" "$out/rto" --out "$out/report.html"
