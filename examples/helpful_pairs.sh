#!/usr/bin/env bash
# DPO on human preference pairs in hh-rlhf's format, and the held-out accuracy beside "the longer answer wins".
#
#   examples/helpful_pairs.sh MODEL PAIRS.jsonl[.gz] OUT [CONTEXT]
#
# Only pairs that fit the model's context (default 512 tokens) whole are used. With a model of a few hundred thousand
# parameters that has never seen a dialogue this is a test of data handling, not of helpfulness. Environment: PASSES (2).
set -euo pipefail
model=$1 pairs=$2 out=$3 context=${4:-512}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 # two threads only get in the way of a model this small
mkdir -p "$out"
python "$here/split_pairs.py" "$pairs" "$out" "$model" "$context"
tokenward data check "$out/train.jsonl" --tokenizer "$model"
tokenward train dpo --model "$model" --data "$out/train.jsonl" --out "$out/dpo" \
  --beta 0.1 --learning-rate 1e-4 --schedule linear --warmup-updates 10 --rows-per-update 16 --passes "${PASSES:-2}"
echo "== before"
tokenward eval --model "$model" --ref "$model" --data "$out/heldout.jsonl"
echo "== after"
tokenward eval --model "$out/dpo/model" --ref "$model" --data "$out/heldout.jsonl"
