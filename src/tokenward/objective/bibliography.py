"""The works that recipes and parts come from, and their BibTeX."""

from __future__ import annotations

from collections.abc import Iterable

# key: (authors, year, title, where)
WORKS: dict[str, tuple[str, int, str, str]] = {
    "ahmadian2024rloo": (
        "Ahmadian, Arash and others",
        2024,
        "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        "arXiv:2402.14740",
    ),
    "agarwal2023gkd": (
        "Agarwal, Rishabh and others",
        2023,
        "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        "arXiv:2306.13649",
    ),
    "azar2023ipo": (
        "Azar, Mohammad Gheshlaghi and others",
        2023,
        "A General Theoretical Paradigm to Understand Learning from Human Preferences",
        "arXiv:2310.12036",
    ),
    "bradley1952": (
        "Bradley, Ralph Allan and Terry, Milton E.",
        1952,
        "Rank Analysis of Incomplete Block Designs: I. The Method of Paired Comparisons",
        "Biometrika 39",
    ),
    "engstrom2020": (
        "Engstrom, Logan and others",
        2020,
        "Implementation Matters in Deep Policy Gradients: A Case Study on PPO and TRPO",
        "arXiv:2005.12729",
    ),
    "ethayarajh2024kto": (
        "Ethayarajh, Kawin and others",
        2024,
        "KTO: Model Alignment as Prospect Theoretic Optimization",
        "arXiv:2402.01306",
    ),
    "gao2024rebel": (
        "Gao, Zhaolin and others",
        2024,
        "REBEL: Reinforcement Learning via Regressing Relative Rewards",
        "arXiv:2404.16767",
    ),
    "guo2024oaif": (
        "Guo, Shangmin and others",
        2024,
        "Direct Language Model Alignment from Online AI Feedback",
        "arXiv:2402.04792",
    ),
    "hu2025reinforcepp": (
        "Hu, Jian and others",
        2025,
        "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Normalization",
        "arXiv:2501.03262",
    ),
    "jin2026drto": (
        "Jin, Yeping and others",
        2026,
        "Distributionally Robust Token Optimization in RLHF",
        "arXiv:2604.08577",
    ),
    "jung2024bco": (
        "Jung, Seungjae and others",
        2024,
        "Binary Classifier Optimization for Large Language Model Alignment",
        "arXiv:2404.04656",
    ),
    "khatri2025scalerl": (
        "Khatri, Devvrit and others",
        2025,
        "The Art of Scaling Reinforcement Learning Compute for LLMs",
        "arXiv:2510.13786",
    ),
    "lambert2024tulu": (
        "Lambert, Nathan and others",
        2024,
        "Tulu 3: Pushing Frontiers in Open Language Model Post-Training",
        "arXiv:2411.15124",
    ),
    "li2023remax": (
        "Li, Ziniu and others",
        2023,
        "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning Large Language Models",
        "arXiv:2310.10505",
    ),
    "liu2025drgrpo": (
        "Liu, Zichen and others",
        2025,
        "Understanding R1-Zero-Like Training: A Critical Perspective",
        "arXiv:2503.20783",
    ),
    "meng2024simpo": (
        "Meng, Yu and Xia, Mengzhou and Chen, Danqi",
        2024,
        "SimPO: Simple Preference Optimization with a Reference-Free Reward",
        "arXiv:2405.14734",
    ),
    "minimax2025m1": (
        "MiniMax",
        2025,
        "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
        "arXiv:2506.13585",
    ),
    "mitchell2023cdpo": (
        "Mitchell, Eric",
        2023,
        "A Note on DPO with Noisy Preferences and Relationship to IPO",
        "note",
    ),
    "munos2023nash": (
        "Munos, Rémi and others",
        2023,
        "Nash Learning from Human Feedback",
        "arXiv:2312.00886",
    ),
    "ouyang2022": (
        "Ouyang, Long and others",
        2022,
        "Training Language Models to Follow Instructions with Human Feedback",
        "arXiv:2203.02155",
    ),
    "peters2007rwr": (
        "Peters, Jan and Schaal, Stefan",
        2007,
        "Reinforcement Learning by Reward-Weighted Regression for Operational Space Control",
        "ICML 2007",
    ),
    "rafailov2023dpo": (
        "Rafailov, Rafael and others",
        2023,
        "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        "arXiv:2305.18290",
    ),
    "rafailov2024q": (
        "Rafailov, Rafael and others",
        2024,
        "From r to Q*: Your Language Model is Secretly a Q-Function",
        "arXiv:2404.12358",
    ),
    "richemond2024dro": (
        "Richemond, Pierre Harvey and others",
        2024,
        "Offline Regularised Reinforcement Learning for Large Language Models Alignment",
        "arXiv:2405.19107",
    ),
    "schulman2015trpo": (
        "Schulman, John and others",
        2015,
        "Trust Region Policy Optimization",
        "arXiv:1502.05477",
    ),
    "schulman2016gae": (
        "Schulman, John and others",
        2016,
        "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
        "arXiv:1506.02438",
    ),
    "schulman2017ppo": (
        "Schulman, John and others",
        2017,
        "Proximal Policy Optimization Algorithms",
        "arXiv:1707.06347",
    ),
    "shao2024grpo": (
        "Shao, Zhihong and others",
        2024,
        "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        "arXiv:2402.03300",
    ),
    "su2025udrra": (
        "Su, Xuerui and others",
        2025,
        "Reveal the Mystery of DPO: The Connection between DPO and RL Algorithms",
        "arXiv:2502.03095",
    ),
    "tomar2020mdpo": ("Tomar, Manan and others", 2020, "Mirror Descent Policy Optimization", "arXiv:2005.09814"),
    "wang2023fdpo": (
        "Wang, Chaoqi and others",
        2023,
        "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence Constraints",
        "arXiv:2309.16240",
    ),
    "wang2024una": (
        "Wang, Zhichao and others",
        2024,
        "UNA: Unifying Alignments of RLHF/PPO, DPO and KTO by a Generalized Implicit Reward Function",
        "arXiv:2408.15339",
    ),
    "williams1992": (
        "Williams, Ronald J.",
        1992,
        "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
        "Machine Learning 8",
    ),
    "xie2024xpo": (
        "Xie, Tengyang and others",
        2024,
        "Exploratory Preference Optimization: Harnessing Implicit Q*-Approximation for Sample-Efficient RLHF",
        "arXiv:2405.21046",
    ),
    "ye2020dual": (
        "Ye, Deheng and others",
        2020,
        "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning",
        "arXiv:1912.09729",
    ),
    "yu2025dapo": (
        "Yu, Qiying and others",
        2025,
        "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        "arXiv:2503.14476",
    ),
    "zhao2023slic": (
        "Zhao, Yao and others",
        2023,
        "SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
        "arXiv:2305.10425",
    ),
    "zheng2023secrets": (
        "Zheng, Rui and others",
        2023,
        "Secrets of RLHF in Large Language Models Part I: PPO",
        "arXiv:2307.04964",
    ),
    "zheng2025gspo": (
        "Zheng, Chujie and others",
        2025,
        "Group Sequence Policy Optimization",
        "arXiv:2507.18071",
    ),
    "zhong2024rto": (
        "Zhong, Han and others",
        2024,
        "DPO Meets PPO: Reinforced Token Optimization for RLHF",
        "arXiv:2404.18922",
    ),
    "ziegler2019": (
        "Ziegler, Daniel M. and others",
        2019,
        "Fine-Tuning Language Models from Human Preferences",
        "arXiv:1909.08593",
    ),
}


def reference(key: str) -> str:
    """A work in one line: first author, year, where. What is no key of WORKS is a text of its own, as it is.

    >>> reference("zhong2024rto")
    'Zhong 2024, arXiv:2404.18922'
    """
    if key not in WORKS:
        return key
    author, year, _, where = WORKS[key]
    return f"{author.split(',')[0]} {year}, {where}"


def bibtex(keys: Iterable[str]) -> str:
    """BibTeX entries of the given keys, one blank line apart; what is no key of WORKS stands as it is."""
    entries = []
    for key in keys:
        if key not in WORKS:
            entries.append(key)
            continue
        author, year, title, where = WORKS[key]
        entries.append(
            f"@misc{{{key},\n  author = {{{author}}},\n  title  = {{{{{title}}}}},\n"
            f"  year   = {{{year}}},\n  note   = {{{where}}}\n}}"
        )
    return "\n\n".join(entries)
