"""What sentence encoders ask of transformers and tokenizers; imported when used."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from likewise._files import read_regular
from likewise.encoders._torchvision import retried
from likewise.errors import InputError, MissingExtra, MissingFileError

# Encoders of text alone. Others may fetch parts of themselves while they are made.
ARCHITECTURES = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie"),
    *("eurobert", "gemma", "gemma2", "gemma3_text", "layoutlm", "llama", "longformer", "minilm"),
    *("mistral", "modernbert", "mpnet", "nomic_bert", "phi3", "qwen2", "qwen3", "rembert"),
    *("roberta", "roformer", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xlnet"),
)
_TOKENIZERS = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "spm.model"),
)
_FOREIGN = ("auto_map", "attn_implementation", "experts_implementation", "quantization_config")
_LARGEST_TEXT = 1 << 26  # bytes of a description or a tokenizer
_LARGEST_NUMBER = 1 << 24
_MOST_LAYERS = 512


def package(name: str) -> Any:
    """transformers or tokenizers, or the sentence that names the extra."""
    try:
        return retried(lambda: importlib.import_module(name))
    except ImportError as error:
        raise MissingExtra(
            f"{name} must be installed for sentence encoders, got no module "
            f'{getattr(error, "name", None)!r}. Use pip install "likewise[text]".'
        ) from error


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a network without anything that names code, of sizes that can be.

    Raises:
        InputError: A size is beyond reason.
    """
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        if name.startswith("_") or name in _FOREIGN:
            continue
        if isinstance(value, Mapping):
            value = plain_settings(value)
        if isinstance(value, int) and not isinstance(value, bool):
            most = _MOST_LAYERS if "layers" in name else _LARGEST_NUMBER
            if ("layers" in name or "size" in name) and not 0 <= value <= most:
                raise InputError(f"{name} must be at most {most:,}, got {value}.")
        kept[name] = value
    return kept


def new_network(architecture: str, settings: Mapping[str, Any]) -> nn.Module:
    """A network of transformers with random weights; no code but its own runs.

    Raises:
        InputError: There is no such network, or the settings do not fit it.
    """
    _check(architecture)
    transformers = package("transformers")
    try:
        config = transformers.AutoConfig.for_model(architecture, **plain_settings(settings))
        made = retried(lambda: transformers.AutoModel.from_config(config, trust_remote_code=False))
    except InputError:
        raise
    except Exception as error:  # each network checks its settings in its own way
        raise InputError(
            f"settings must be those of {architecture}, got others ({type(error).__name__})."
        ) from error
    return made.float()  # type: ignore[no-any-return]


def pretrained_network(folder: Path) -> tuple[str, dict[str, Any], nn.Module]:
    """The architecture, the settings and the network with the weights of a folder."""
    settings = read_json(folder / "config.json")
    architecture = str(settings.pop("model_type", None))
    _check(architecture)
    transformers = package("transformers")
    told = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()  # its lines would stand between ours
    try:
        config = transformers.AutoConfig.for_model(architecture, **plain_settings(settings))
        made = retried(
            lambda: transformers.AutoModel.from_pretrained(
                str(folder),
                config=config,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
            )
        )
    except Exception as error:  # absent, damaged or other weights: each of its own kind
        raise InputError(
            f"encoder must have whole weights in a .safetensors file, got {str(folder)!r} "
            f"({type(error).__name__}). Save it with safetensors."
        ) from error
    finally:
        if told:
            transformers.logging.enable_progress_bar()
    described = {k: v for k, v in config.to_diff_dict().items() if k != "model_type"}
    return architecture, plain_settings(described), made.float()


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a folder, as transformers reads it."""
    transformers = package("transformers")
    if not any((folder / name).is_file() for name in _TOKENIZERS):  # else it makes an empty one
        raise MissingFileError(
            f"encoder must have a tokenizer, got none in {str(folder)!r}. Add its tokenizer.json."
        )
    try:
        made = retried(
            lambda: transformers.AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
        )
        made.backend_tokenizer.to_str()
    except Exception as error:
        raise InputError(
            f"encoder must have a fast tokenizer, got none that can be read in {str(folder)!r} "
            f"({type(error).__name__}). Add its tokenizer.json."
        ) from error
    return made


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        InputError: It is none.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise MissingFileError(
            f"encoder must have a {path.name}, got none in {str(path.parent)!r}. "
            "Give a folder in the layout of Hugging Face or sentence-transformers."
        )
    try:
        found = json.loads(read_regular(path, _LARGEST_TEXT))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} must be JSON, got something else.") from error
    if not isinstance(found, dict):
        raise InputError(f"{str(path)!r} must be a JSON object, got {type(found).__name__}.")
    return found


def _check(architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"encoder must be a network of texts ({', '.join(ARCHITECTURES)}), got "
            f"{architecture!r}. Encode with the package that has it, and use the vectors."
        )
