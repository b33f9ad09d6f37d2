"""Four references of DPO on a language model: where chosen log-probs fall, where they rise, the identity beside."""
