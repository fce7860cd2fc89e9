"""Recipe: every choice of a training, once, with its one default."""

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likewise import _tables
from likewise.errors import InputError, InputTypeError, naming

PAIR_LOSSES = (
    "circle",
    "contrastive",
    "multi-similarity",
    "nt-xent",
    "supervised-contrastive",
    "triplet",
)
CLASS_LOSSES = (  # with weights of their own
    "arcface",
    "cosface",
    "normalized-softmax",
    "proxy-anchor",
    "softmax",
)
GIVEN_PAIRS_LOSSES = ("contrastive", "threshold")
TOWER_LOSSES = ("multiple-negatives", "sigmoid-pairs", *GIVEN_PAIRS_LOSSES)
VIEW_LOSSES = ("barlow-twins", "simclr", "simsiam", "vicreg")  # without labels
SCORED = ("seen_", "unseen_", "pairs_")  # what the numbers of parts that are scored begin with
AUGMENTS = ("none", "light", "photos", "strong", "views")
PROJECTIONS = ("drop", "keep", "none")
TRAINED = ("none", "head", "last", "all")
HEADS = ("none", "linear", "mlp", "whitening")
POOLINGS = ("average", "max", "gem")
MADE_CLASSES = ("none", "turned", "mirrored", "both")
_NEEDS = {
    "pairs": "The two views of an item are its pairs.",
    "hold_out_classes": "No class is trained on, so that every class is new to the model.",
    "made_classes": "Every item stands for itself.",
    "classes_per_batch": "Use batch_size.",
    "items_per_class": "Every item comes in two views.",
    "cross_fit": "No class is trained on, so that each can stand for unknowns as it is.",
    "keep_best": "Scores need labels. Use loss.",
}


@dataclass(frozen=True)
class Recipe:
    """How `likewise.train` trains: one field per choice. `likewise train` has the same defaults.

    Attributes:
        encoder: An encoder by name, as `likewise.encoders.by_name` takes it; None for a pretrained
            one for photographs whose weights can be had, and for "small" for everything else.
        towers: Two encoders by name, for pairs across two sides: that of a, the queries, then that
            of b, the known items; see `data.CrossPairs`. None for one encoder.
        train: What trains: "none", "head", "last" or "all". None for "all" of the small encoder.
            For others None keeps them frozen, and puts a head behind them only where it is ahead
            on held-out classes. With pretrained towers a head on each trains if None.
        head: Layers behind a frozen or pretrained encoder: "none", "linear", "mlp", or
            "whitening", which is fitted at once; None for what `train` needs.
        pooling: Pooling of a network of timm: "average", "max" or "gem"; None for its own. See
            `encoders.Backbone`.
        embedding_dim: Numbers per embedding; None for 64, or as many as a pretrained encoder has.
            With two towers the smaller number.
        features: Weight of the small network's features beside its embedding, which has 1, in the
            model's embeddings; see `encoders.WithFeatures`. They help with classes that were not
            trained on, and take nothing from `embedding_dim`. 0 for the embedding alone. None for
            2 where the small network trains on fewer than 50 classes, and else for 0.
        labels: Whether labels are used. False learns from two changed views of each image, as
            SimCLR does: images need no labels, and those they have play no part.
        augment: How images are changed while training: "none", "light", "photos", "strong" or
            "views"; see `augment.by_name`. None for "light", or "views" without labels. With
            labels, images below 16 pixels a side, and other items, never are.
        made_classes: New classes from old ones: "none", "turned", "mirrored" or "both". None for
            "both" where the small network trains on classes of gray, square images, and else for
            "none".
        pairs: Whether pairs are trained on instead of classes.
        loss: A loss by name; None for "contrastive" with pairs, for "simclr" without labels, for
            "normalized-softmax" where a sentence encoder trains, for "multiple-negatives" with
            towers, and else for "multi-similarity".
        distance: A distance by name.
        margin: Margin of the triplet or contrastive loss; None for its default.
        projection: Layers behind the encoder that the loss of a training without labels is
            computed on: "drop" to leave them out of the model, "keep", or "none" for no such
            layers.
        epochs: Number of epochs.
        batches: Batches per epoch; None for about one pass over the data, at least 50, and with the
            small network at most 30 for each class. Made classes add none.
        classes_per_batch: Classes in a balanced batch; None for the default of `fit`, or 64 where
            a sentence encoder trains with a loss that has class centers.
        items_per_class: Items of each class in a batch; None for the default of `fit`, or as many
            as make 64 items where a sentence encoder trains with a loss that has class centers.
        batch_size: Items in a batch without labels, or pairs in one of two towers; None for 128.
        learning_rate: The highest learning rate of the schedule; None for 0.001, for 0.003 where
            the small network trains on classes of gray images, for 0.0001 where a pretrained
            encoder trains, and for 0.0002 where that is one of sentences.
        loss_learning_rate: Rate of the loss's own weights, such as class centers; None for ten
            times the other where a pretrained encoder trains, and else for the same.
        clip_gradients: Largest norm of all gradients together; None clips nothing.
        chunk: Items that are encoded at once, so that a large batch needs the memory of a small
            one; None encodes batches whole. See `fit`.
        precision: "float32", "bfloat16" or "float16".
        hold_out_classes: Classes that are not trained on: their names, or their share, such as
            0.4.
        keep_aside: Share of each class that is not trained on, for calibration; without labels
            the share of all items, and of given pairs none.
        evaluate_every: Score epoch 1 and every N-th epoch; None for every epoch where anything
            is scored.
        keep_best: The number by which the best epoch is kept, such as "unseen_map_at_r".
        patience: Stop after N scores without improvement of `keep_best`.
        cross_fit: Encoders that are also trained without some of the classes, so that
            `calibrate` can judge these as unknowns: a number of folds, "off", or "auto" for three,
            which take about twice the time of the training itself. One class per fold up to ten
            classes, else five folds, is the most that is used.
            Without labels there are none.
        seed: Seed of everything drawn at random.

    Raises:
        InputError: A value is out of range, or two of them exclude each other.
        InputTypeError: A value has the wrong type.

    Example:
        >>> recipe = Recipe(epochs=5, loss="triplet", margin=0.3)
        >>> recipe.distance, recipe.keep_aside
        ('cosine', 0.1)
    """

    encoder: str | None = None
    towers: tuple[str, str] | None = None
    train: str | None = None
    head: str | None = None
    pooling: str | None = None
    embedding_dim: int | None = None
    features: float | None = None
    labels: bool = True
    augment: str | None = None
    made_classes: str | None = None
    pairs: bool = False
    loss: str | None = None
    distance: str = "cosine"
    margin: float | None = None
    projection: str = "drop"
    epochs: int = 10
    batches: int | None = None
    classes_per_batch: int | None = None
    items_per_class: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    loss_learning_rate: float | None = None
    clip_gradients: float | None = None
    chunk: int | None = None
    precision: str = "float32"
    hold_out_classes: float | tuple[str, ...] | None = None
    keep_aside: float = 0.1
    evaluate_every: int | None = None
    keep_best: str | None = None
    patience: int | None = None
    cross_fit: int | str = "auto"
    seed: int = 0

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def __post_init__(self) -> None:
        # Late, so that the defaults can be read without waiting for torch.
        from likewise._checks import check_choice, check_count, check_positive, check_rate

        check_count("epochs", self.epochs)
        for name in (
            *("embedding_dim", "batches", "classes_per_batch", "items_per_class"),
            *("batch_size", "chunk", "evaluate_every", "patience"),
        ):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("seed", self.seed, 0)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        if self.loss_learning_rate is not None:
            check_positive("loss_learning_rate", self.loss_learning_rate)
        if self.clip_gradients is not None:
            check_positive("clip_gradients", self.clip_gradients)
        check_rate("keep_aside", self.keep_aside)
        if self.keep_aside == 1:
            raise InputError(
                "must be below 1, got 1. Leave some to train on.", argument="keep_aside"
            )
        if not isinstance(self.pairs, bool):
            raise InputTypeError(f"must be true or false, got {self.pairs!r}.", argument="pairs")
        if not isinstance(self.labels, bool):
            raise InputTypeError(f"must be true or false, got {self.labels!r}.", argument="labels")
        if self.augment is not None:
            check_choice("augment", self.augment, AUGMENTS)
        check_choice("projection", self.projection, PROJECTIONS)
        if self.made_classes is not None:
            check_choice("made_classes", self.made_classes, MADE_CLASSES)
        if isinstance(self.cross_fit, str):
            check_choice("cross_fit", self.cross_fit, ("auto", "off"))
        else:
            check_count("cross_fit", self.cross_fit, 2)
        self._check_features()
        self._check_labels()
        allowed: tuple[str, ...] = (*PAIR_LOSSES, *CLASS_LOSSES)
        if self.towers is not None:
            self._check_towers()
            allowed = TOWER_LOSSES
        elif not self.labels:
            allowed = VIEW_LOSSES
        elif self.pairs:
            allowed = GIVEN_PAIRS_LOSSES
        if self.loss is not None:
            check_choice("loss", self.loss, allowed)
        if self.margin is not None:
            check_positive("margin", self.margin)
            if self.loss_name not in ("contrastive", "triplet"):
                raise InputError(
                    f"must be left out for {self.loss_name}, got {self.margin}. It belongs to the "
                    "triplet and contrastive losses.",
                    argument="margin",
                )
        if self.loss_learning_rate is not None and not self.loss_has_weights:
            raise InputError(
                f"must be left out for {self.loss_name}, got {self.loss_learning_rate}. It is for "
                "losses with weights of their own.",
                argument="loss_learning_rate",
            )
        object.__setattr__(self, "hold_out_classes", _classes(self.hold_out_classes))
        self._check_encoder()
        if self.patience is not None and self.keep_best is None:
            raise InputError(
                f"must be left out without keep_best, got {self.patience}.",
                argument="patience",
                remedy="Say by keep_best which number must improve.",
                command="Say by --keep-best which number must improve.",
            )

    @property
    def loss_name(self) -> str:
        """The name of the loss that is used."""
        if self.loss is not None:
            return self.loss
        if self.towers is not None:
            return "multiple-negatives"
        if not self.labels:
            return "simclr"
        if self.pairs:
            return "contrastive"
        return "normalized-softmax" if self.trains_sentences else "multi-similarity"

    @property
    def loss_has_weights(self) -> bool:
        """Whether the loss has weights of its own, such as class centers."""
        if not self.labels:
            return self.projection == "drop" or self.loss_name == "simsiam"
        return self.loss_name in (*CLASS_LOSSES, "sigmoid-pairs", "threshold")

    @property
    def augment_name(self) -> str:
        """The name of the changes that are used."""
        return self.augment or ("light" if self.labels else "views")

    @property
    def is_small(self) -> bool:
        """Whether the small network alone is trained, which is not pretrained."""
        return all(name in (None, "small") for name in self.towers or (self.encoder,))

    @property
    def learns_classes(self) -> bool:
        """Whether the small network is trained on classes."""
        return self.is_small and self.labels and not self.pairs and self.towers is None

    @property
    def makes_classes(self) -> bool:
        """Whether new classes from old ones are asked for."""
        return self.made_classes not in (None, "none")

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder itself does not train, so that each item is encoded once."""
        return self.labels and not self.is_small and self.train in (None, "none", "head")

    def _check_features(self) -> None:
        from likewise._checks import check_number

        if self.features is None:
            return
        check_number("features", self.features)
        if self.features < 0:
            raise InputError(f"must be 0 or above, got {self.features}.", argument="features")
        if self.features and self.projection == "keep":
            raise InputError(
                f"must be left out where the projection is kept, got {self.features}.",
                argument="features",
            )
        if self.features and not self.is_small:
            raise InputError(
                f"must be left out for {self.encoder}, got {self.features}. They are "
                "those of the small network.",
                argument="features",
            )

    def _check_labels(self) -> None:
        """Refuse choices that labels have no part in, or that need them."""
        if self.labels:
            if self.loss in VIEW_LOSSES:
                raise InputError(
                    f"must be one that uses labels, got {self.loss!r}.",
                    argument="loss",
                    remedy="Or use labels=False.",
                    command="Or add --no-labels.",
                )
            no_size = () if self.towers is not None else (("batch_size", None),)
            for name, default in (("projection", "drop"), *no_size):
                if getattr(self, name) != default:
                    raise InputError(
                        f"must be left out where labels are used, got {getattr(self, name)!r}.",
                        argument=name,
                    )
            return
        score = (self.keep_best or "").startswith(("seen_", "unseen_", "pairs_"))
        contradicts = {
            "pairs": self.pairs,
            "hold_out_classes": self.hold_out_classes is not None,
            "made_classes": self.makes_classes,
            "classes_per_batch": self.classes_per_batch is not None,
            "items_per_class": self.items_per_class is not None,
            "cross_fit": not isinstance(self.cross_fit, str),
            "keep_best": score,
        }
        for name, is_given in contradicts.items():
            if is_given:
                raise InputError(
                    f"must be left out without labels, got {getattr(self, name)!r}. {_NEEDS[name]}",
                    argument=name,
                )
        if self.train in ("none", "head") or self.head == "whitening":
            name = "head" if self.head == "whitening" else "train"
            raise InputError(
                f"must be {'none, linear or mlp' if name == 'head' else 'last or all'} without "
                f"labels, got {getattr(self, name)!r}. The encoder learns from changed views of "
                "images, which it encodes anew each time.",
                argument=name,
            )
        if self.encoder == "none" or (self.encoder or "").startswith("sentence:"):
            raise InputError(
                f"must be small or timm:NAME without labels, got {self.encoder!r}. Views are "
                "changed images.",
                argument="encoder",
            )

    def _check_towers(self) -> None:
        """Refuse choices that two towers have no part in, and names that are no encoders."""
        from likewise.encoders.naming import parsed

        towers = self.towers
        if isinstance(towers, (list, tuple)) and all(isinstance(name, str) for name in towers):
            object.__setattr__(self, "towers", tuple(towers))
        if not isinstance(self.towers, tuple) or len(self.towers) != 2:
            raise InputTypeError(
                f"must be two names of encoders, got {towers!r}.",
                argument="towers",
                remedy='Use e.g. ("timm:tf_efficientnet_lite0", "sentence:all-MiniLM-L6-v2").',
                command="Use e.g. --towers timm:tf_efficientnet_lite0,sentence:all-MiniLM-L6-v2.",
            )
        for name in self.towers:
            with naming(encoder="towers"):
                parsed(name)
        if self.train == "none" or self.head == "whitening":
            name = "head" if self.head == "whitening" else "train"
            raise InputError(
                f"must be {'none, linear or mlp' if name == 'head' else 'head, last or all'} with "
                f"towers, got {getattr(self, name)!r}, as both sides must learn.",
                argument=name,
            )
        if self.head == "none" and self.train not in ("last", "all") and not self.is_small:
            raise InputError(
                "must be linear or mlp for towers that do not train, got 'none', as nothing would "
                "learn.",
                argument="head",
                remedy='Or use train="last" or "all".',
                command="Or use --train last or all.",
            )
        for side in range(2):
            self.of_tower(side)  # refuses what this encoder cannot do
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in (
            *("encoder", "labels", "pairs", "made_classes", "hold_out_classes", "evaluate_every"),
            *("keep_aside", "classes_per_batch", "items_per_class", "features"),
        ):
            if getattr(self, name) != defaults[name]:
                raise InputError(
                    f"must be left out with towers, got {getattr(self, name)!r}. Pairs across two "
                    "sides have no classes, and nothing is scored.",
                    argument=name,
                )
        is_scored = (self.keep_best or "").startswith(SCORED)
        if is_scored or not isinstance(self.cross_fit, str):
            name = "keep_best" if is_scored else "cross_fit"
            raise InputError(
                f"must be left out with towers, got {getattr(self, name)!r}, as there are no "
                "classes to score.",
                argument=name,
            )

    def of_tower(self, side: int) -> "Recipe":
        """The recipe of one of two towers, as of an encoder alone."""
        name = (self.towers or ("small", "small"))[side]
        small = name == "small"
        return Recipe(
            encoder=name,
            train=None if small else self.train or "head",
            head=None if small else self.head,
            pooling=self.pooling if name.startswith("timm:") else None,
            embedding_dim=self.embedding_dim,
            augment=self.augment,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )

    @property
    def trains_sentences(self) -> bool:
        """Whether layers of a sentence encoder train, and not a head alone."""
        return str(self.encoder).startswith("sentence:") and not self.is_frozen

    def _check_encoder(self) -> None:
        from likewise._checks import check_choice

        if self.train is not None:
            check_choice("train", self.train, TRAINED)
        if self.head is not None:
            check_choice("head", self.head, HEADS)
        if self.pooling is not None:
            check_choice("pooling", self.pooling, POOLINGS)
            names = self.towers or (self.encoder,)
            if not any(name is None or name.startswith("timm:") for name in names):
                raise InputError(
                    f"must be left out for {' and '.join(map(str, names))}, got {self.pooling!r}. "
                    "It is for networks of timm.",
                    argument="pooling",
                )
        if self.encoder == "small":
            if self.train not in (None, "all"):
                raise InputError(
                    f"must be all for the encoder small, got {self.train!r}. It is not pretrained.",
                    argument="train",
                )
            if self.head not in (None, "none"):
                raise InputError(
                    f"must be none for the encoder small, got {self.head!r}. It has one.",
                    argument="head",
                )
        if self.train == "head" and self.head == "none":
            raise InputError(
                "must be none without a head, got 'head', as nothing would train.",
                argument="train",
                remedy='Use head="linear", or train="none".',
                command="Use --head linear, or --train none.",
            )
        if self.train == "none" and self.head in ("linear", "mlp", "whitening"):
            raise InputError(
                f"must be head, last or all with a head, got 'none'. Behind it, {self.head} would "
                "stay untrained.",
                argument="train",
            )
        if self.head == "whitening" and self.train in ("last", "all"):
            raise InputError(
                f"must be head for the head whitening, got {self.train!r}. It is fitted behind "
                "an encoder that does not change.",
                argument="train",
            )
        if self.encoder == "none" and self.train in ("last", "all"):
            raise InputError(
                f"must be head or none for the encoder none, got {self.train!r}, as it has no "
                "weights.",
                argument="train",
            )
        if self.encoder == "none" and self.train is None and self.head == "none":
            raise InputError(
                "must be given for the encoder none without a head, got none, as nothing would "
                "train.",
                argument="train",
                remedy='Use train="none", or a head.',
                command="Use --train none, or a head.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The choices that differ from "none", ready for JSON and TOML.

        Example:
            >>> Recipe(epochs=3).to_dict()["epochs"]
            3
        """
        fields = dataclasses.asdict(self)
        held = self.hold_out_classes
        if isinstance(held, tuple):
            fields["hold_out_classes"] = list(held)
        if self.towers is not None:
            fields["towers"] = list(self.towers)
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_dict(cls, choices: Mapping[str, Any]) -> "Recipe":
        """The recipe with these choices, and the defaults for all others.

        Raises:
            InputError: A choice that is not there, or a wrong value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in choices:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                raise InputError(
                    f"recipe must hold only {', '.join(known)}, got {name!r}."
                    + (f" Did you mean {near[0]}?" if near else "")
                )
        return cls(**choices)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Recipe":
        """The recipe in a TOML file.

        Raises:
            InputError: The file is no TOML, or holds something other than a recipe's choices.
            FileNotFoundError: There is no such file.
        """
        from likewise._checks import check_exists

        file = Path(path)
        check_exists("recipe", file)
        try:
            choices = tomllib.loads(file.read_bytes().decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"recipe must be a TOML file, got {str(file)!r} ({error}). "
                "Write lines such as epochs = 5."
            ) from error
        return cls.from_dict(choices)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the recipe as TOML; the path.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     file = Recipe(hold_out_classes=["cat"]).write(f"{folder}/recipe.toml")
            ...     Recipe.read(file).hold_out_classes
            ('cat',)
        """
        import tomli_w

        from likewise._files import write_whole

        write_whole(Path(path), tomli_w.dumps(self.to_dict()).encode())
        return Path(path)


def _classes(held: object) -> float | tuple[str, ...] | None:
    if held is None or isinstance(held, str):
        if isinstance(held, str):
            raise InputTypeError(
                f"must be names or a share, got {held!r}. Use [{held!r}].",
                argument="hold_out_classes",
            )
        return None
    if isinstance(held, (int, float)) and not isinstance(held, bool):
        if not 0 < held < 1:
            raise InputError(
                f"must be names, or a share between 0 and 1, got {held}.",
                argument="hold_out_classes",
            )
        return float(held)
    if isinstance(held, (list, tuple)) and held and all(isinstance(name, str) for name in held):
        return tuple(held)
    raise InputTypeError(f"must be names or a share, got {held!r}.", argument="hold_out_classes")
