"""Models on the Hugging Face Hub; the only module that imports huggingface_hub.

The mixin of that library is not used: it would make the library a dependency of every model, wants a class of
its own to load (here the config names the type), and falls back to pickles.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from absynth.errors import AbsynthError
from absynth.files import write_text
from absynth.models.pretrained import CONFIG_NAME, WEIGHTS_NAME, PretrainedModel, known_type, read_config

CARD_NAME = "README.md"
CARD = """---
library_name: absynth
pipeline_tag: image-classification
tags:
- adversarial-robustness
- analysis-by-synthesis
---

# {name}

An image classifier of the type `{type}`: from (batch, 1, {height}, {width}) in [0, 1] to logits.

```python
import absynth

model = absynth.load("{name}")  # pip install 'absynth[hub]'
```
"""

PATIENCE = 10.0
"""Seconds that the Hub has for its first answer."""

_IDENTIFIER = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")


def is_identifier(name: str) -> bool:
    """Whether this may be the name of a model on the Hub: ``user/name``, or ``user/name@revision``.

    >>> is_identifier("user/name"), is_identifier("user/name@v1.0"), is_identifier("./user/name")
    (True, True, False)
    """
    return _IDENTIFIER.fullmatch(name) is not None


def download(name: str) -> Path:
    """The folder in the Hub's cache with a model that :func:`push_to_hub` stored.

    Two files are asked for, by name: the config and, once that is known to be one of ours, the safetensors.
    Without a network, what was downloaded before is found again.

    Args:
        name: ``user/name``, with ``@`` and a branch, tag or commit if not the newest is wanted.

    Raises:
        AbsynthError: If there is no such model, it is not one of ours, or the Hub cannot be reached.
    """
    matched = _IDENTIFIER.fullmatch(name)
    assert matched is not None
    model, revision = matched["name"], matched["revision"]
    missing = f"There is no folder '{name}'"
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise AbsynthError(
            f"{missing}; for a model on the Hugging Face Hub install its library: pip install 'absynth[hub]'."
        ) from None
    trouble = None
    try:
        trouble = _trouble(model, revision)
        get = partial(hf_hub_download, model, local_files_only=trouble is not None)
        config = Path(get(CONFIG_NAME, revision=revision))
        _check_config(read_config(config.parent), name)
        # At the commit of the config, which its folder is named by: the branch may have moved on meanwhile.
        get(WEIGHTS_NAME, revision=config.parent.name)
    except AbsynthError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise AbsynthError(
            f"{missing}, and no such model on the Hugging Face Hub; check the name, or log in with "
            "'hf auth login' if it is private."
        ) from None
    except Exception as error:
        lacking = isinstance(error, errors.EntryNotFoundError)
        if lacking and not isinstance(error, errors.LocalEntryNotFoundError):
            raise AbsynthError(
                f"The model {name} on the Hugging Face Hub lacks {CONFIG_NAME} or {WEIGHTS_NAME}; absynth "
                "loads what push_to_hub stored, and no pickles."
            ) from None
        raise AbsynthError(
            f"{missing}, and the Hugging Face Hub cannot be reached ({_first_line(trouble or error)}); check "
            "the name or the network."
        ) from None
    return config.parent


def _trouble(model: str, revision: str | None) -> Exception | None:
    """What keeps the Hub from answering, if anything; a download would try again and again before it told."""
    from huggingface_hub import HfApi, errors

    try:
        HfApi(library_name="absynth").model_info(model, revision=revision, timeout=PATIENCE)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise
    except Exception as error:  # whose kind depends on the network's library, and that on the Hub's version
        return error
    return None


def push_to_hub(
    model: PretrainedModel,
    name: str,
    training: dict[str, Any] | None = None,
    *,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Stores the files of ``model.save_pretrained`` on the Hugging Face Hub, for ``absynth.load(name)``.

    A model card is only written where there is none yet.

    Args:
        model: One of ours.
        name: ``user/name``; made if needed, or given a new version.
        training: How the weights came about, as for ``save_pretrained``.
        private: Whether a model that is new there is private; by default as the user's settings say.
        token: Of the Hub; by default the one of ``hf auth login``.

    Returns:
        Where a browser finds it.

    Raises:
        AbsynthError: If huggingface_hub is missing, the name is none of the Hub's, or the Hub refuses.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise AbsynthError("The Hugging Face Hub needs its library: pip install 'absynth[hub]'.") from None
    if not is_identifier(name) or "@" in name:
        raise AbsynthError(f"'{name}' is no name on the Hugging Face Hub; give one like user/name.")
    height, width = model.domain.size
    with TemporaryDirectory() as temporary:
        folder = model.save_pretrained(temporary, training)
        try:
            hub = HfApi(token=token, library_name="absynth")
            address = hub.create_repo(name, private=private, exist_ok=True)
            if not hub.file_exists(name, CARD_NAME):
                card = CARD.format(name=name, type=model.type_name, height=height, width=width)
                write_text(folder / CARD_NAME, card)
            hub.upload_folder(repo_id=name, folder_path=folder, commit_message=f"A {model.type_name} model")
        except Exception as error:
            raise AbsynthError(
                f"The Hugging Face Hub did not take {name} ({_first_line(error)}); log in with "
                "'hf auth login' or give a token that may write there."
            ) from None
    return str(address)


def _check_config(config: dict[str, Any], name: str) -> None:
    known_type(config)
    if config.get("weights", WEIGHTS_NAME) != WEIGHTS_NAME:
        raise AbsynthError(
            f"The model {name} on the Hugging Face Hub has its weights elsewhere; have it pushed again."
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
