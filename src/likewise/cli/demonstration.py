"""`likewise demo`: the whole journey on the digits that come with scikit-learn."""

import time
from pathlib import Path
from typing import Any

import torch

import likewise as lw
from likewise.cli import console, journeys
from likewise.cli.training import tell_epoch
from likewise.journeys.index import index
from likewise.journeys.opening import open_fitting
from likewise.pages import report

HELD_OUT = ("0", "4", "5", "8")  # digits that the encoder never sees
PER_CLASS = 10  # examples of every digit in the index


def run(out: Path, *, seed: int = 0, device: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Train on six of ten digits, index a few of all, calibrate, match, verify, report."""
    started = time.perf_counter()
    # Images of 64 pixels are quicker on one thread, and on a busy machine by far.
    torch.set_num_threads(1)
    console.say(
        "train: six digits, turned and mirrored ones as more classes; "
        f"{', '.join(HELD_OUT)} are held out"
    )
    recipe = lw.Recipe(
        hold_out_classes=HELD_OUT,
        keep_aside=0.3,
        epochs=10,
        cross_fit="off",  # the digits held out stand for unknowns
        seed=seed,
    )
    with console.progress("training") as show:
        model = lw.train("digits", recipe, callbacks=[tell_epoch], progress=show, device=device)
    digits = open_fitting(model, "digits", default_split="train")
    examples = lw.data.sample_items(digits, per_class=PER_CLASS, seed=seed)
    indexed = index(model, examples, source="digits").added
    console.say(f"index: {PER_CLASS} examples of each of the ten digits")
    thresholds = journeys.calibrate(
        model, "digits", split=None, goal="best-f1", rule=None, k=1, seed=seed
    )
    console.say("calibrate: on training images that were neither trained on nor indexed")
    model.save(out / "model")
    reloaded = lw.load(out / "model")
    test = lw.data.load("digits", split="test")
    console.say(f"match and verify: {len(test)} test images, with the model loaded again")
    found = reloaded.evaluate(test, seed=seed)
    page = report(
        found,
        out / "report.html",
        model=reloaded,
        title="Digits, four of ten never seen in training",
        source="digits, test part",
    )
    matching, verification = found.matching, found.verification
    if matching is None or verification is None:
        raise RuntimeError("the index or the test part is empty")
    seconds = time.perf_counter() - started
    by_rule = {rule: made.threshold for rule, made in thresholds.items()}
    lines = [
        f"accuracy on digits seen in training     {matching.accuracy_seen}",
        f"accuracy on digits never seen           {matching.accuracy_unseen}",
        f"answered unknown                        {matching.unknown_share}",
        f"threshold for matching                  {by_rule['nearest']:.4f}",
        f"verifying pairs: equal error rate       {verification.equal_error_rate}",
        f"threshold for verifying                 {by_rule['pairs']:.4f}",
        f"{indexed} items indexed, {found.items} matched, {seconds:.0f} s in all",
        f"report: {page}",
    ]
    result = {
        "model": str(out / "model"),
        "report": str(page),
        "thresholds": by_rule,
        "indexed": indexed,
        "seconds": seconds,
        **found.to_dict(),
    }
    return result, lines
