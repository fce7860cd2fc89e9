"""The commands of `likewise` and their options."""

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from likewise.cli import (
    comparing,
    console,
    drifting,
    embed,
    ending,
    exporting,
    faces,
    gallery,
    known,
    leaking,
    maps,
    migrating,
    serving,
    wrapping,
)
from likewise.cli.options import (
    Augment,
    Cache,
    Data,
    Device,
    DistanceName,
    EncoderFrom,
    GalleryFolder,
    Head,
    Json,
    Loss,
    MadeClasses,
    Model,
    NewModel,
    PartRows,
    PartsFolder,
    Point,
    Pooling,
    Precision,
    Projection,
    Resume,
    Rule,
    Seed,
    Split,
    Threshold,
    Trained,
    Unknowns,
    Workers,
    reads_data,
)
from likewise.errors import InputError
from likewise.journeys.recipe import Recipe

ENCODER = "Encoder"
DATA, LOSS, SCHEDULE, SCORES = "Data", "Loss", "Schedule", "Scores while training"  # of options
# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
app = typer.Typer(
    name="likewise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        console.write_out(f"likewise {importlib.metadata.version('likewise')}\n")
        raise typer.Exit


@app.callback()
def likewise(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Learn from labeled examples what 'the same' means; then look up, match and verify."""


def run() -> int:
    """Run the command line; its exit status."""
    return ending.run(app)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the model and report.html.")] = Path("out"),
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """The whole journey on bundled digits: train, index, calibrate, match, verify, evaluate."""
    from likewise.cli import demonstration

    result, lines = demonstration.run(out, seed=seed, device=device)
    console.finish(result, lines, as_json=as_json)


@app.command()
@reads_data
def train(
    ctx: typer.Context,
    source: Data,
    out: NewModel,
    recipe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A .toml file with choices; options given here go before it."),
    ] = None,
    encoder: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            rich_help_panel=ENCODER,
            metavar="NAME",
            show_default="a pretrained one for photographs, else small",
            help="small, timm:NAME, sentence:NAME-OR-FOLDER, or none for vectors.",
        ),
    ] = Recipe.encoder,
    towers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            rich_help_panel=ENCODER,
            metavar="NAME,NAME",
            help="Two encoders, of the columns a and b of a table of pairs: a holds queries, b "
            "known items, each texts (sentence:NAME) or image files.",
        ),
    ] = None,
    train_: Annotated[
        Optional[Trained],  # noqa: UP045
        typer.Option(
            "--train",
            rich_help_panel=ENCODER,
            show_default="all of the small one; others stay frozen unless a head is ahead on "
            "held-out classes; a head each of two towers",
            help="What of the encoder trains.",
        ),
    ] = None,
    head: Annotated[
        Optional[Head],  # noqa: UP045
        typer.Option(rich_help_panel=ENCODER, help="Layers behind a pretrained encoder."),
    ] = None,
    pooling: Annotated[
        Optional[Pooling],  # noqa: UP045
        typer.Option(
            rich_help_panel=ENCODER,
            show_default="the network's own",
            help="What makes features of the maps or tokens of a network of timm; gem is the "
            "generalized mean.",
        ),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(rich_help_panel=ENCODER, help="File with its weights, .safetensors or .pth."),
    ] = None,
    features: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            rich_help_panel=ENCODER,
            min=0,
            show_default="2 for fewer than 50 classes, else 0",
            help="Weight of the small network's features beside its embedding, which has 1. They "
            "help with classes that were not trained on.",
        ),
    ] = None,
    hold_out_classes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            rich_help_panel=DATA,
            help="A class not to train on, several separated by commas, or e.g. 40%. May be given "
            "again, and a name that holds a comma alone or in double quotes.",
        ),
    ] = None,
    keep_aside: Annotated[
        float,
        typer.Option(
            rich_help_panel=DATA, help="Share of each class not trained on, for calibration."
        ),
    ] = Recipe.keep_aside,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            rich_help_panel=DATA, help="train, val, test or all, where the data has parts."
        ),
    ] = None,
    image_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(rich_help_panel=DATA, help="Resize images to this side."),
    ] = None,
    channels: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(rich_help_panel=DATA, help="1 for gray, 3 for color."),
    ] = None,
    augment: Annotated[
        Optional[Augment],  # noqa: UP045
        typer.Option(
            rich_help_panel=DATA,
            show_default="light; views with --no-labels",
            help="light: images are turned, shifted and scaled a little. photos: windows of them, "
            "mirrored, other colors. strong: more of it, blurred and partly hidden. views: what "
            "training without labels uses.",
        ),
    ] = None,
    made_classes: Annotated[
        Optional[MadeClasses],  # noqa: UP045
        typer.Option(
            rich_help_panel=DATA,
            show_default="both for gray, square images and the small network",
            help="New classes from old ones.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(rich_help_panel=DATA, help="Processes that read data.")
    ] = 0,
    buffer: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            rich_help_panel=DATA,
            metavar="ITEMS",
            min=2,
            help="Go through DATA as a stream, with this many items in memory to mix: .tar shards, "
            'as "train-{00..15}.tar", or a folder of Hugging Face datasets.',
        ),
    ] = None,
    use_labels: Annotated[
        bool,
        typer.Option(
            " /--no-labels",
            rich_help_panel=LOSS,
            show_default=False,
            help="Learn from two changed views of each image; labels, where there are any, play "
            "no part.",
        ),
    ] = Recipe.labels,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            rich_help_panel=LOSS,
            help="Train on pairs: DATA is a table with columns a, b and same, or has classes, from "
            "which each epoch draws new pairs.",
        ),
    ] = Recipe.pairs,
    loss: Annotated[
        Optional[Loss],  # noqa: UP045
        typer.Option(
            rich_help_panel=LOSS,
            show_default="multi-similarity; normalized-softmax where a sentence encoder trains; "
            "multiple-negatives with --towers, which also takes sigmoid-pairs; "
            "contrastive with --pairs, which also takes threshold; simclr with --no-labels, which "
            "takes barlow-twins, simsiam and vicreg",
            help="The loss.",
        ),
    ] = None,
    projection: Annotated[
        Projection,
        typer.Option(
            rich_help_panel=LOSS,
            help="With --no-labels: the layers that the loss is computed on, behind the encoder.",
        ),
    ] = Projection.DROP,
    distance: Annotated[
        DistanceName, typer.Option(rich_help_panel=LOSS, help="How embeddings are compared.")
    ] = DistanceName.COSINE,
    margin: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(rich_help_panel=LOSS, help="Margin of the triplet or contrastive loss."),
    ] = None,
    embedding_dim: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            rich_help_panel=ENCODER,
            show_default="64; of a pretrained encoder as many as it has",
            help="Numbers per embedding.",
        ),
    ] = Recipe.embedding_dim,
    epochs: Annotated[int, typer.Option(rich_help_panel=SCHEDULE)] = Recipe.epochs,
    batches: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCHEDULE,
            help="Per epoch; default one pass over the data, at least 50, and with the small "
            "network at most 30 for each class.",
        ),
    ] = None,
    classes_per_batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(rich_help_panel=SCHEDULE, help="Classes in a batch."),
    ] = None,
    items_per_class: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(rich_help_panel=SCHEDULE, help="Items of each class in a batch."),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCHEDULE,
            show_default="128",
            help="Items in a batch of --no-labels, or pairs in one of --towers.",
        ),
    ] = None,
    learning_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCHEDULE,
            show_default="0.001; 0.003 for gray images and the small network, 0.0001 where a "
            "pretrained encoder trains, 0.0002 one of sentences",
            help="The highest one.",
        ),
    ] = Recipe.learning_rate,
    loss_learning_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCHEDULE,
            show_default="the same; ten times it where a pretrained encoder trains",
            help="That of the loss's own weights, such as class centers.",
        ),
    ] = Recipe.loss_learning_rate,
    clip_gradients: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(rich_help_panel=SCHEDULE, help="Largest norm of all gradients together."),
    ] = None,
    chunk: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCHEDULE,
            help="Items that are encoded at once, so that a large batch needs the memory of a "
            "small one.",
        ),
    ] = None,
    precision: Annotated[Precision, typer.Option(rich_help_panel=SCHEDULE)] = Precision.FLOAT32,
    evaluate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCORES,
            metavar="DATA|aside",
            help="Score the encoder as it learns, on other data or on what is not trained on: the "
            "items kept aside (seen_…) and the classes held out (unseen_…).",
        ),
    ] = None,
    evaluate_every: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCORES, help="Score epoch 1 and every N-th epoch; default every epoch."
        ),
    ] = None,
    keep_best: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCORES,
            help="Keep the encoder of the epoch with the best of this number: seen_map_at_r, "
            "unseen_map_at_r, seen_roc_auc, …, loss. What it is chosen on is no longer untouched.",
        ),
    ] = None,
    patience: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(rich_help_panel=SCORES, help="Stop after N scores without improvement."),
    ] = None,
    cross_fit: Annotated[
        str,
        typer.Option(
            rich_help_panel=SCHEDULE,
            metavar="N|auto|off",
            help="Also train N encoders, each without some of the classes, so that calibrate can "
            "judge these as unknowns. auto: three, in about twice the training time.",
        ),
    ] = str(Recipe.cross_fit),
    track: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            rich_help_panel=SCORES,
            help="tensorboard, wandb or mlflow: log every epoch, in a folder runs/.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=SCHEDULE,
            help="Go on with a training that was interrupted, with the same options.",
        ),
    ] = False,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Train an encoder and save it as a new model, with nothing indexed yet.

    Every epoch is kept beside the model until that is saved, so that --resume can go on. Under
    torchrun or accelerate launch the processes train one model together.
    """
    from likewise.cli import training
    from likewise.model.folders import check_target
    from likewise.training import is_first_process

    check_target(out)  # before the work rather than after it
    if buffer is not None and resume:
        raise InputError("must be left out for a stream, got it with --buffer.", argument="resume")
    checkpoint = None if buffer is not None else training.checkpoint_of(out, resume=resume)
    if track is not None and out.name == "runs":
        raise InputError(
            "must not be runs with --track, which logs there, got 'runs'.", argument="out"
        )
    model, fewest = training.train(
        source,
        training.choices_of(ctx, recipe),
        split=split,
        image_size=image_size,
        channels=channels,
        hold_out_classes=hold_out_classes or (),
        evaluate=evaluate,
        track=track,
        tracked=out.parent / "runs" / out.name,
        workers=workers,
        buffer=buffer,
        device=device,
        reading=reading,
        checkpoint=checkpoint,
        weights=weights,
    )
    if not is_first_process():
        return
    folder = model.save(out)
    if checkpoint is not None:
        training.forget(checkpoint)
    result, lines = training.answer(model, folder, source, fewest)
    console.finish(result, lines, as_json=as_json)


for _command in (wrapping.wrap, known.index, known.remove, known.lookup, known.match):
    app.command()(_command)
app.add_typer(gallery.app, name="gallery")
app.command("map")(maps.map_)


@app.command()
@reads_data
def calibrate(
    model: Model,
    source: Data,
    goal: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            show_default="balanced for matching, best-f1 for pairs",
            help="balanced (unknowns accepted and knowns missed weigh alike), balanced=0.7 "
            "(unknowns weigh 0.7), best-f1, accuracy, equal-error, far=0.05 (at most that share of "
            "unknowns accepted), far=0.05@cautious (aims at half), far=0.05@0.95 (kept with a "
            "confidence of 0.95), far=0.05@average, precision=0.99, recall=0.95 or cost=0.01 (the "
            "least at that prior).",
        ),
    ] = None,
    rule: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="nearest, majority, … or pairs; nearest and pairs if left out."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbors that decide a match.")] = 1,
    point: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Keep the threshold under this name; needs --rule. Several may be kept."),
    ] = None,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Matching: a threshold for each class with data enough."),
    ] = False,
    holds_for: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            show_default="classes for guarantees of matching, else items",
            help="What intervals and guarantees are for. items: new items of these classes "
            "(matching: of these unknown classes). classes: new classes (matching: new unknown "
            "classes).",
        ),
    ] = None,
    unknowns: Unknowns = None,
    for_gallery_of: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Number of items that the index may grow to, for matching."),
    ] = None,
    gallery: GalleryFolder = None,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Choose thresholds from items with known labels that were neither trained on nor indexed.

    DATA may also be a .csv of pairs, with columns a, b and same: of image files, of texts, or of
    ids of known items for a model over vectors.
    """
    from likewise.calibration import threshold_change
    from likewise.cli import answers, journeys

    loaded = journeys.open_model(model, device, gallery, cache=cache, encoder_from=encoder_from)
    before = dict(loaded.calibrations)
    made = journeys.calibrate(
        loaded,
        source,
        split=split,
        goal=goal,
        rule=rule,
        k=k,
        point=point,
        per_class=per_class,
        leave_out=holds_for,
        unknowns=unknowns,
        for_gallery_of=for_gallery_of,
        seed=seed,
        reading=reading,
    )
    loaded.save(model)
    moved = {
        name: threshold_change(before[name], each) for name, each in made.items() if name in before
    }
    lines = []
    for name, each in made.items():
        lines += answers.calibration_lines(name, each)
        lines += [f"  {moved[name]}"] if name in moved else []
    lines += [
        f"{name}: {len(by_class.classes)} classes have thresholds of their own"
        for name, by_class in loaded.class_thresholds.items()
        if name in made
    ]
    told = {
        name: {
            **console.without(each.to_dict(), "sample", "known"),
            "moved": moved[name].to_dict() if name in moved else None,
        }
        for name, each in made.items()
    }
    console.finish(told, lines, as_json=as_json)


@app.command()
def verify(
    model: Model,
    files: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="FILE_A FILE_B", help="Two images, or two texts."),
    ] = None,
    pairs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A .csv with columns a, b and perhaps same (1 or 0)."),
    ] = None,
    threshold: Threshold = None,
    point: Point = None,
    prior: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            show_default="0.5", help="Share of such pairs that are the same, for the probability."
        ),
    ] = None,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also draw the pairs, side by side, into this .png or .svg."),
    ] = None,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also write a page about the pairs of the table."),
    ] = None,
    out: PartsFolder = None,
    workers: Workers = 0,
    resume: Resume = False,
    part_rows: PartRows = None,
    cache: Cache = None,
    seed: Seed = 0,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Whether two items, or each pair of a table, are the same."""
    from likewise._checks import check_file_target
    from likewise.cli import in_parts, journeys
    from likewise.cli import verify as told
    from likewise.journeys import verify as pairs_of

    for name, path in (("picture", picture), ("report", report)):
        if path is not None:
            check_file_target(name, path)
    if report is not None and pairs is None:
        raise InputError(
            "must come with --pairs, got two files. Use --picture for these.", argument="report"
        )
    how = in_parts.asked(
        out,
        beside={"cache": cache, "picture": picture, "report": report},
        workers=workers,
        resume=resume,
        part_rows=part_rows,
    )
    if out is not None and pairs is None:
        raise InputError("must come with --pairs, got no table.", argument="out")
    loaded = journeys.open_model(model, device, cache=cache, encoder_from=encoder_from)
    asked = pairs_of.read(loaded, files or [], pairs, unchecked=out is not None)
    question: dict[str, Any] = {"point": point or "pairs", "threshold": threshold, "prior": prior}
    if out is not None:
        from likewise.journeys.answers import verify_parts

        how |= question
        in_parts.write(verify_parts, loaded, asked, out, doing="verifying", as_json=as_json, **how)
        return
    with console.progress("verifying") as show:
        decided = pairs_of.judge(loaded, asked, progress=show, **question)
    judged = pairs_of.evaluated(loaded, asked, decided, question["point"])
    kept = loaded.probabilities.get(question["point"])
    result, lines = told.answer(
        asked, decided, judged, kept.prior if prior is None and kept else prior
    )
    if picture is not None or report is not None:
        from likewise.pages.verify import pairs_page, pairs_picture
    if picture is not None:
        result["picture"] = str(pairs_picture(loaded, asked, decided, picture))
        lines.append(f"picture: {picture}")
    if report is not None:
        written = pairs_page(report, loaded, asked, decided, judged, source=str(pairs))
        result["report"] = str(written)
        lines.append(f"report: {written}")
    console.finish(result, lines, as_json=as_json)


@app.command()
@reads_data
def evaluate(
    model: Model,
    source: Data,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also write a page with all numbers and pictures."),
    ] = None,
    card: Annotated[
        bool,
        typer.Option(
            "--card", help="Also write card.md into the model's folder, with the numbers."
        ),
    ] = False,
    relevance: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Judge lookup alone, by a table with the columns query, item and grade (or qrels "
            "of TREC). Items go by their file, text or id; queries by file, text or row of DATA.",
        ),
    ] = None,
    ks: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            "-k",
            help="With --relevance: a rank at which scores are told; may be given again.",
            show_default="1, 5 and 10",
        ),
    ] = None,
    protocol: Annotated[
        bool,
        typer.Option(
            "--protocol",
            help="Judge retrieval alone on a published benchmark, as papers report it: "
            "cub-200-2011, cars196, stanford-online-products, in-shop, inaturalist-2018.",
        ),
    ] = False,
    point: Point = None,
    rule: Rule = "nearest",
    gallery: GalleryFolder = None,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Judge matching, verification and retrieval on labeled items, with intervals.

    With --relevance judge instead how well the index answers the items of DATA as queries; with
    --protocol, how a published benchmark is reported.
    """
    from likewise.cli import answers, journeys
    from likewise.data import items_per_class
    from likewise.journeys.opening import open_fitting
    from likewise.journeys.scoring import selection_notes

    if report is not None:
        from likewise._checks import check_file_target

        check_file_target("report", report)
    if relevance is not None or protocol or ks:
        from likewise.cli import search

        search.check_options(relevance, protocol, ks, report, point, split)
    loaded = journeys.open_model(model, device, gallery, cache=cache, encoder_from=encoder_from)
    if protocol:
        with console.warnings_as_lines(), console.progress("evaluating") as show:
            told = search.benchmark_answer(loaded, source, show)
        console.finish(*told, as_json=as_json)
        return
    asked: dict[str, Any] = {"default_split": "test", "reading": reading, "queries": True}
    if relevance is not None:
        queries = open_fitting(loaded, source, split, **asked)
        with console.warnings_as_lines(), console.progress("searching") as show:
            told = search.search_answer(loaded, queries, relevance, ks, show)
        console.finish(*told, as_json=as_json)
        return
    examples = journeys.open_items(loaded, source, split, **asked)
    with console.warnings_as_lines(), console.progress("evaluating") as show:
        found = loaded.evaluate(examples, point=point or rule, seed=seed, progress=show)
    result: dict[str, Any] = found.to_dict()
    lines = answers.evaluation_lines(found)
    lines += selection_notes(loaded.origin, list(items_per_class(examples)))
    if report is not None:
        from likewise.pages import report as write_report

        title = f"{Path(model).name} on {source}"
        page = write_report(found, report, model=loaded, title=title, source=source)
        result["report"] = str(page)
        lines.append(f"report: {page}")
    if card:
        from likewise.journeys.card import write_card

        result["card"] = str(write_card(model, found, data=source))
        lines.append(f"card: {result['card']}")
    console.finish(result, lines, as_json=as_json)


app.command()(comparing.compare)
app.command()(drifting.drift)
app.command()(embed.embed)
app.command()(exporting.export)
app.command()(faces.faces)
app.command()(leaking.leaks)
app.command()(migrating.migrate)
app.command()(serving.serve)
app.command()(serving.key)


@app.command()
def info(
    model: Model,
    card: Annotated[
        bool,
        typer.Option("--card", help="Also write card.md into the folder, with what evaluate kept."),
    ] = False,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What a saved model is made of; its encoder is not built."""
    import likewise as lw
    from likewise._devices import chosen_device
    from likewise.cli import answers

    chosen_device(device)
    opened = lw.load(model, read_only=True, without_encoder=True)
    result, lines = answers.summary(opened)
    if card:
        from likewise.journeys.card import write_card

        result["card"] = str(write_card(model))
        lines.append(f"card: {result['card']}")
    console.finish(result, lines, as_json=as_json)


for _app in (app, gallery.app):
    for _registered in _app.registered_commands:
        _registered.cls = ending.Command
