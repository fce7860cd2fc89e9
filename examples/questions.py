"""Questions to an assistant: the intent of each, or UNKNOWN where it has none (CLINC150).

150 intents, 100 questions of each to train on and to index. One threshold is chosen on the
validation questions, 3,000 of the 150 intents and 100 of none: the loosest that accepts at most 30
of these. One model with that threshold then answers the 4,500 test questions of the 150 intents,
where UNKNOWN counts as wrong, and the 1,000 of none, where only UNKNOWN is right. In two more
tables the threshold is chosen without any question out of scope.

Rows: `tfidf`, word counts by scikit-learn; `frozen`, the sentence encoder as it is; `head`, a
linear layer behind it; `whole`, all of the encoder trained. What is done is kept in the folder
given, a model for each row and seed, so that an interrupted run goes on.

    python examples/questions.py OUT
    python examples/questions.py OUT --rows tfidf,frozen,head --seeds 1
"""

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import likewise as lw
from likewise.evaluation import evaluate_matching
from likewise.intervals import mean

ENCODER = "sentence:all-MiniLM-L6-v2"
TRAINED = {
    "head": lw.Recipe(encoder=ENCODER, train="head", head="linear", loss="normalized-softmax"),
    "whole": lw.Recipe(encoder=ENCODER, train="all", epochs=3),
}
ROWS = ("tfidf", "frozen", *TRAINED)
RULE, NEIGHBORS = "weighted", 15  # chosen on the validation questions, with one model
OUT_OF_SCOPE = "oos"
PUBLISHED = {"BERT, published": (0.962, 0.523), "MLP, published": (0.934, 0.491)}


class Questions:
    """CLINC150: its parts as datasets; questions of no intent have the class oos."""

    def __init__(self) -> None:
        home = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
        self.raw = json.loads((home / "clinc150" / "data_full.json").read_text())

    def of(self, *parts: str) -> lw.data.TextDataset:
        """The questions of one or more parts, with their intents."""
        rows = [row for part in parts for row in self.raw[part]]
        return lw.data.TextDataset([text for text, _ in rows], [intent for _, intent in rows])


class WordCounts(torch.nn.Module):
    """TF-IDF weights of words, by scikit-learn."""

    takes_texts = True

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.counts = TfidfVectorizer(min_df=2, sublinear_tf=True)
        self.counts.fit(texts)

    def forward(self, texts: list[str]) -> torch.Tensor:
        """Weights (n, d); zeros for a text without a known word."""
        return torch.from_numpy(self.counts.transform(texts).toarray()).float()


def keep_most(counts: lw.metrics.Sweep) -> int:
    """The strictest threshold that accepts nearly all right answers."""
    return int(torch.nonzero(counts.true_accept_rate >= KEPT)[0])


KEPT = 0.98
THRESHOLDS: dict[
    str, tuple[lw.calibration.Goal, list[str]]
] = {  # how they are chosen, and on which parts
    "at most 30% of the validation questions out of scope": (
        lw.at_most_false_accepts(0.3),
        ["val", "oos_val"],
    ),
    f"without them, {KEPT:.0%} of the right answers accepted": (keep_most, ["val"]),
    "without them, each intent also taken for an unknown one": (lw.balanced(), ["val"]),
}


def made(row: str, questions: Questions, out: Path, seed: int) -> lw.SimilarityModel:
    """The model of a row, with the training questions indexed: loaded, or made and saved."""
    folder = out / f"seed{seed}-{row}"
    if (folder / "model.json").exists():
        return lw.load(folder)
    train = questions.of("train")
    if row == "tfidf":
        model = lw.SimilarityModel(WordCounts(train.texts), trained=train)
    elif row == "frozen":
        # As for the others: `calibrate` judges by unknowns as given, and makes none of val.
        model = lw.SimilarityModel(lw.encoders.by_name(ENCODER), trained=train)
    else:
        checkpoint = out / f"seed{seed}-{row}.checkpoint"
        recipe = replace(TRAINED[row], keep_aside=0.0, cross_fit="off", seed=seed)  # val is apart
        model = lw.train(train, recipe, device="cpu", checkpoint=checkpoint, tell=print)
    model.add(train)
    if row != "tfidf":  # whose vocabulary a model cannot hold
        model.save(folder)
        shutil.rmtree(out / f"seed{seed}-{row}.checkpoint", ignore_errors=True)
    return model


def result_of(row: str, questions: Questions, out: Path, seed: int) -> dict[str, Any]:
    """Shares of one row and seed, with their intervals: read if they are there, else written."""
    file = out / f"seed{seed}-{row}.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    model = made(row, questions, out, seed)
    found: dict[str, Any] = {"seconds": sum(e["seconds"] for e in model.origin.get("history", []))}
    test = questions.of("test", "oos_test")
    x = model.embedded(test)
    codes = {name: code for code, name in enumerate(model.class_names)}
    truth = torch.tensor([codes.get(test.class_names[c], len(codes)) for c in test.labels.tolist()])
    val = model.embedded(questions.of("val", "oos_val"))
    in_scope = torch.arange(len(questions.raw["val"]))
    for name, (goal, parts) in THRESHOLDS.items():
        chosen_on = val if len(parts) > 1 else val.take(in_scope)
        point = model.calibrate(chosen_on, goal=goal, rule=RULE, k=NEIGHBORS)
        judged = evaluate_matching(
            model.match(x, point=RULE),
            truth,
            indexed_classes=list(codes.values()),
            class_names=[*codes, OUT_OF_SCOPE],
        )
        shares = {"in_scope": judged.identification_rate, "out_of_scope": judged.accuracy_unknown}
        found[name] = {key: [each.value, each.low, each.high] for key, each in shares.items()}
        found[name]["threshold"] = point.threshold
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(file)
    return found


def told(values: list[list[float]]) -> str:
    """A share in percent with its interval: over the questions of one seed, or over the seeds."""
    value, low, high = values[0]
    if len(values) > 1:
        whole = mean(torch.tensor([value for value, _, _ in values]), within=(0.0, 1.0))
        value, low, high = whole.value, whole.low, whole.high
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def table(results: dict[str, list[dict[str, Any]]], name: str) -> None:
    """Accuracy in scope and recall out of scope, by rows."""
    print(f"\nThreshold: {name}\n")
    print("| | in scope, % | out of scope, % | training, s | seeds |")
    print("|---|---|---|---|---|")
    for row, seeds in results.items():
        shares = [told([one[name][key] for one in seeds]) for key in ("in_scope", "out_of_scope")]
        seconds = sum(one["seconds"] for one in seeds) / len(seeds)
        print(f"| {row} | " + " | ".join(shares) + f" | {seconds:.0f} | {len(seeds)} |")
    if name == next(iter(THRESHOLDS)):
        for row, (inside, outside) in PUBLISHED.items():
            print(f"| {row} | {100 * inside:.1f} | {100 * outside:.1f} | | |")


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", type=int, default=1, help="Of the rows that are trained.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    questions, results = Questions(), {}
    for row in options.rows.split(","):
        seeds = range(options.seeds if row in TRAINED else 1)
        results[row] = [result_of(row, questions, options.out, seed) for seed in seeds]
    for name in THRESHOLDS:
        table(results, name)


if __name__ == "__main__":
    main()
