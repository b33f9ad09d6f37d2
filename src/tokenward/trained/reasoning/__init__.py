"""Process credit from outcome labels: the study of arithmetic chains."""
