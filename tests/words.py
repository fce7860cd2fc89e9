"""Words that readers stumble over: `python tests/words.py [FILE...]` lists them with a better one.

Part of `make check`. Spelling is American, which codespell does not decide.
"""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
BETTER = {
    r"so many": "the number, or N",
    r"ever (?:the|more)": "always, more and more",
    r"at hand": "given, available",
    r"of one's own": "your own, custom",
    r"which way": "how",
    r"if not said": "by default",
    r"is to be (?:known|found|told)": "must be, is",
    r"left out if": "omitted if",
    r"turned away": "rejected",
    r"fares": "performs",
    r"home of": "store of",
    r"flatter(?:s|ed|ing)?": "inflate, bias",
    r"strangers?": "unknown, impostor",
    r"promis(?:e|es|ed)": "guarantee",
    r"centre[ds]?": "center",
    r"neighbours?": "neighbor",
    r"normalis\w+": "normaliz...",
    r"(?:summar|minim|optim|organ|recogn)is(?:e|es|ed|ing|ation)": "-ize",
    r"learnt": "learned",
    r"labelled": "labeled",
    r"colou(?:r|rs|red)": "color",
    r"grey(?:s|scale)?": "gray",
    r"licence": "license",
    r"behaviou(?:r|rs)": "behavior",
}
DOUBTFUL = re.compile("|".join(rf"\b(?P<w{at}>{word})\b" for at, word in enumerate(BETTER)), re.I)
BARE_ARGUMENT = re.compile(r"^ {4,}[a-z_]+: (?:of|as|that|those) ")  # begin with a noun instead


def found_in(text: str) -> list[tuple[int, str, str]]:
    """Line number, word and better word of each place."""
    places = []
    for number, line in enumerate(text.splitlines(), start=1):
        places += [
            (number, match[0], list(BETTER.values())[int(str(match.lastgroup)[1:])])
            for match in DOUBTFUL.finditer(line)
        ]
        if BARE_ARGUMENT.match(line):
            places.append((number, line.strip(), "a noun first"))
    return places


def main(names: list[str]) -> int:
    """Print each place of the files, or of the whole package and its pages; 1 if there is one."""
    default = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("src/**/*.py")]
    status = 0
    for path in sorted(map(Path, names)) or sorted(default):
        if path.suffix in {".py", ".md"} and path.resolve() != Path(__file__).resolve():
            for number, word, better in found_in(path.read_text()):
                status = 1
                sys.stdout.write(f"{path}:{number}: {word!r}: rather {better}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
