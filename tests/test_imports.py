"""What importing costs: `--help` without torch, the maths without transformers, LoRA's library only for LoRA."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import tokenward

SRC = Path(tokenward.__file__).resolve().parent.parent
MODULES = sorted(module.name for module in pkgutil.walk_packages(tokenward.__path__, "tokenward."))
MATHS = [m for m in MODULES if m.split(".")[1] in {"types", "masking", "objective", "recipes", "lab"}]


def loaded_after(code: str) -> set[str]:
    """Top-level names in sys.modules after running the code in a fresh interpreter."""
    code = f"import sys; sys.path.insert(0, {str(SRC)!r})\n{code}\nimport json\n"
    code += "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["tokenward.cli", "tokenward.train.settings"])
def test_the_command_line_imports_neither_torch_nor_jaxtyping(module):
    assert not loaded_after(f"import {module}") & {"torch", "jaxtyping", "transformers", "datasets", "peft"}


@pytest.mark.parametrize("words", [["--help"], ["train", "dpo", "--help"]])
def test_help_is_printed_without_transformers(words):
    code = f"from tokenward.cli import main\ntry:\n    main({words!r})\nexcept SystemExit:\n    pass"
    assert not loaded_after(code) & {"transformers", "datasets", "peft", "accelerate"}


def test_the_maths_loads_torch_alone():
    libraries = {"transformers", "accelerate", "datasets", "peft", "tokenizers", "vllm"}
    assert not loaded_after("\n".join(f"import {module}" for module in MATHS)) & libraries


def test_every_module_imports_and_none_loads_peft():
    assert "peft" not in loaded_after("\n".join(f"import {module}" for module in MODULES))


def test_subpackages_load_when_named_and_not_before():
    assert "torch" not in loaded_after("import tokenward; tokenward.__version__")
    named = "import tokenward; assert 'logp' in tokenward.recipes.build('dpo').needs"
    assert "torch" in loaded_after(named)
    with pytest.raises(AttributeError, match="module 'tokenward' has no attribute 'recipe'"):
        _ = tokenward.recipe
