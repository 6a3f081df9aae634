"""The tables of the five papers put to the test, and their printed equations; `docs/claims.md`."""
# ruff: noqa: E501 (the long lines are sentences of the document)

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from covidlab.evaluation.papers import published, tables

from .claims import attainable, scan_sizes
from .tables import COLUMNS, SEVERITIES, Finding, check_table

# What the papers say around each table, as `check_table` wants it. Khan et al. give 166 test images
# and no classes: 74 + 92 is 20 % of their 370 infected and 459 healthy ones.
_KHAN = {"classes": {"infected": 74, "healthy": 92}, "runs": 5, "sizes_stated": False}
_REGIONS = {"class_column": "Region", "names": {"%Acc": "class_accuracy"}}
_FOLD = {"COVID": 41, "non-COVID": 50}  # 410 and 500 images in ten folds; figure 13a
_PARTS = ("# of Samples", ["Training Samples", "Validation Samples", "Test Samples"])
_SPECS = {
    ("khan", "2"): _KHAN,
    ("khan", "3"): _KHAN,
    ("khan", "4"): {"sums": [("100", ["% COVID-19 Infected", "% Background"])]},
    ("khan", "5"): _REGIONS,
    ("khan", "6"): _REGIONS,
    ("khan", "text01"): {"sums": [(0, [1, 2]), (0, [3, 4, 5]), (6, [7, 8, 9])]},
    ("alom", "text01"): {"n": "Images"},
    ("alom", "text02"): {"class_column": "Class", "sums": [(9, [12, 13])]},
    ("alom", "text03"): {"ratios": [("Infected (%)", "Infected pixels", "Lung pixels")]},
    ("garg", "1"): {
        "classes": [
            {"Normal": 12245, "CAP": 7395, "COVID": 6018},
            {"Normal": 3659, "CAP": 436, "COVID": 1333},
            {"Normal": 24, "CAP": 19, "COVID": 55},
        ]
    },
    ("garg", "2"): {"n": 90},
    ("garg", "text01"): {"sums": [("All", ["COVID-19", "CAP", "Normal"])]},
    ("ahmed", "1"): {},
    ("ahmed", "2"): {"sums": [("2472", [0, 1, 2])]},
    ("ahmed", "6"): {"classes": _FOLD},
    ("ahmed", "7"): {"classes": [_FOLD, _FOLD, _FOLD, None], "sizes_stated": False},
    ("ahmed", "text01"): {"sums": [(2, [0, 1]), ("All", ["COVID", "non-COVID"])]},
    ("tahir", "1"): {"class_column": "Class", "sums": [_PARTS]},
    ("tahir", "2"): {"class_column": "Class", "sums": [_PARTS]},
    ("tahir", "3"): {"n": 704},
    ("tahir", "4"): {
        "classes": {"COVID-19": 423, "MERS": 144, "SARS": 134},
        "class_column": "Class",
        "folds": 5,
    },
    ("tahir", "5"): {"n": 6788},
    ("tahir", "6"): {"n": 1166},
    ("tahir", "7"): {"n": 1166},
    ("tahir", "8"): {"classes": {"COVID-19 positive": 583, "COVID-19 negative": 583}},
    ("tahir", "9"): {"n": 6788},
    ("tahir", "10"): {
        "classes": {"COVID-19": 2395, "non-COVID": 2253, "Normal": 2140},
        "class_column": "Class",
    },
    ("tahir", "text01"): {"sums": [(16, [0, 1, 2, 3])]},
}

# Paper, table, and one quantity in two places: (table, row, column), or (where in the text, what it
# says). The last word says what two values are: impossible for a paper's own result, else unexplained.
_RESNET = ("2", {"Model": "ResNet-18", "CT sample": "IDWT"}, "%Accuracy")
_AVERAGE = ("6", {"Fold Number": "Average"})
_TWICE = [
    ("khan", "1", "existing networks compared", ("text 3.1.3.1", "seven"), ("text 5.1.2", "nine"), "unexplained"),
    ("khan", "2", "accuracy of ResNet-18 on IDWT images", _RESNET, ("text 5.1.1", "97.17"), "impossible"),
    ("khan", "2", "accuracy of ResNet-18 on IDWT images", _RESNET, ("3", {"Model": "Resnet18", "Type": "Trained from scratch (D)"}, "%Accuracy"), "impossible"),
    ("khan", "4", "infected pixels found by CoV-RASeg", ("4", {"Models": "CoV-RASeg"}, "% COVID-19 Infected"), ("5", {"Model": "CoV-RASeg", "Region": "Infected"}, "%Acc"), "impossible"),
    ("khan", "5", "lowest IoU of the background", ("5", {"Model": "Deeplabv3_1 SA", "Region": "Background"}, "%IOU"), ("text 5.2.2", "61.06"), "unexplained"),
    ("alom", "text01", "accuracy of COVID-Net", ("text 2", "83.5"), ("text 6", "84.67"), "unexplained"),
    ("alom", "text02", "CT samples for training and test", ("text02", {"Data": "COVID-19 CT", "Set": "all", "Class": "all"}, "Images"), ("text 7", "300"), "unexplained"),
    ("ahmed", "1", "accuracy of the Truncated Inception Net", ("table 1", "99.96"), ("text 2", "99.92"), "unexplained"),
    ("ahmed", "6", "accuracy, average of ten folds", (*_AVERAGE, "Testing Accuracy (%)"), ("7", {"Model": "Proposed Model"}, "Testing Accuracy (%)"), "impossible"),
    ("ahmed", "6", "specificity, average of ten folds", (*_AVERAGE, "Testing Specificity (%)"), ("text 4.3", "98.52"), "impossible"),
    ("tahir", "1", "COVID-19 images of COVID-Family", ("1", {"Class": "COVID-19"}, "# of Samples"), ("text 3.1.1", "462"), "unexplained"),
    ("tahir", "2", "COVID-19 images with infection masks", ("2", {"Class": "COVID-19 positive"}, "# of Samples"), ("text 2.1.3", "2,951"), "unexplained"),
    ("tahir", "9", "sensitivity of InceptionV4 on segmented X-rays", ("9", {"Input": "Segmented CXR"}, "Sensitivity"), ("10", {"Model": "InceptionV4", "Class": "Overall"}, "Sensitivity"), "impossible"),
    ("tahir", "10", "best COVID-19 sensitivity of a classifier", ("10", {"Model": "DenseNet161", "Class": "COVID-19"}, "Sensitivity"), ("text 4.2.2.4", "91.52"), "impossible"),
    ("tahir", "11", "parameters of the most demanding segmentation network", ("11", {"Model": "U-Net ++", "Encoder": "DenseNet161"}, "Trainable parameters"), ("text 4.2.2.5", "59.35 M"), "unexplained"),
]  # fmt: skip

# (paper, number, what it is of, as printed where it differs, as it is defined, what follows)
_EQUATIONS = [
    ("khan", "(7)", "cross-entropy loss", "Σₙ y·log p", "Σₙ yₙ·log pₙ", "imprecise: the sum runs over n, and nothing under it has an n"),
    ("khan", "(10)", "accuracy", "", "(TP + TN)/n", "as defined"),
    ("khan", "(11)", "precision", "… + Correctly Incorrectly Predicted …", "TP/(TP + FP)", "misprint: a stray “Correctly”; as it stands the denominator has no meaning"),
    ("khan", "(12)", "recall", "", "TP/(TP + FN)", "as defined"),
    ("khan", "(13)", "specificity", "", "TN/(TN + FP)", "as defined"),
    ("khan", "(14)", "F-score", "", "2PR/(P + R)", "as defined"),
    ("khan", "(15)", "MCC", "√((TP + FP)(FP + FN)…)", "√((TP + FP)(TP + FN)…)", "misprint: 0/0 for a perfect classifier, and 5.93 for TP 73, FN 1, FP 1, TN 91, where MCC is 0.98, as table 2 has it"),
    ("khan", "(16)", "IoU", "hit/(hit + whole infected region)", "hit/(predicted + whole − hit)", "misprint: never above 1/2, where tables 5 and 6 go to 98.73 %"),
    ("khan", "(17)", "Dice", "2·hit/(2·hit + whole infected region)", "2·hit/(predicted + whole)", "misprint: never above 2/3, where tables 5 and 6 go to 0.953"),
    ("ahmed", "(1)", "Dice", "", "2Σpg/(Σp² + Σg²)", "as defined by Milletari et al."),
    ("ahmed", "(2)", "accuracy", "", "(TP + TN)/n", "as defined"),
    ("ahmed", "(3)", "sensitivity", "", "TP/(TP + FN)", "as defined"),
    ("ahmed", "(4)", "specificity", "", "TN/(TN + FP)", "as defined; tables 6 and 7 print TN/(TN + FN) under this name"),
    ("tahir", "(2)", "complement of an image", "y = 225 − x", "y = 255 − x", "misprint: 225 is not the 255 of the sentence before; white becomes −30"),
    ("tahir", "(3)", "cross-entropy loss", "y_k is 1 if y_k = c", "y_kc is 1 if pixel k is of class c", "imprecise: y is explained by itself, and p has no class"),
    ("tahir", "(6)", "Score-CAM", "f(X ∘ H) − f(X)", "f(X ∘ H) − f(baseline)", "differs: Wang et al. subtract the score of a baseline input; the whole image makes most weights negative"),
    ("tahir", "(8)", "interval", "", "z·√(p(1 − p)/N)", "as defined, for a proportion of N; z is called the level of significance, which is 0.05, and N is all test images for every metric"),
    ("tahir", "(9)", "accuracy", "", "(TP + TN)/n", "as defined"),
    ("tahir", "(10)", "IoU", "", "TP/(TP + FP + FN)", "as defined"),
    ("tahir", "(11)", "Dice", "", "2TP/(2TP + FP + FN)", "as defined"),
    ("tahir", "(12)", "accuracy of a class", "", "(TP + TN)/n", "as defined: the class against the rest"),
    ("tahir", "(13)", "precision of a class", "", "TP/(TP + FP)", "as defined"),
    ("tahir", "(14)", "sensitivity of a class", "", "TP/(TP + FN)", "as defined"),
    ("tahir", "(15)", "specificity of a class", "", "TN/(TN + FP)", "as defined"),
    ("tahir", "(16)", "F1 of a class", "", "2PR/(P + R)", "as defined"),
    ("tahir", "(17)", "overall", "", "Σ nᵢ·metricᵢ/N", "as defined; table 4 does not follow it for F1, nor for accuracy on segmented X-rays"),
]  # fmt: skip


def appraise(paper: str | None = None) -> pd.DataFrame:
    """Every published table put to every rule that applies, with the counts that the papers state.

    `paper` picks one of "khan", "alom", "garg", "ahmed", "tahir"; ValueError for another. Columns
    paper, table, and those of `check_table`. Tables in which nothing can be checked (recipes,
    architectures, definitions) have no row; `coverage` lists them all.
    """
    found = []
    for entry in tables(paper).itertuples():
        where = {"paper": entry.paper, "table": entry.table}
        spec = _SPECS.get((entry.paper, entry.table))
        if spec is not None:
            units = {"units": "percent"} if entry.units == "percent" else {}
            units |= {"decimals": 2} if entry.paper == "tahir" else {}  # 99.1 ± 0.22, 100 ± 0
            frame = published(entry.paper, entry.table, numeric=False)
            found.append(check_table(frame, **spec, **units).assign(**where))
        more = [*_twice(entry.paper, entry.table), *_further(entry.paper, entry.table)]
        found.append(pd.DataFrame(more, columns=COLUMNS).assign(**where))
    table = pd.concat([f for f in found if len(f)], ignore_index=True)
    return table[["paper", "table", *COLUMNS]]


def coverage(findings: pd.DataFrame) -> pd.DataFrame:
    """Every published table of the papers in `findings`: what it is, and how many checks came out how."""
    index = tables()
    index = index[index["paper"].isin(set(findings["paper"]))]
    counts = findings.groupby(["paper", "table"])["severity"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=list(SEVERITIES), fill_value=0)
    keys = pd.MultiIndex.from_frame(index[["paper", "table"]])
    out = counts.reindex(keys, fill_value=0)
    out.insert(0, "kind", index["kind"].to_numpy())
    return out


def equations(paper: str | None = None) -> pd.DataFrame:
    """Every metric that a paper prints as an equation, and the other equations that are wrong.

    Columns paper, equation, of, printed (the fragment that differs, else empty), usual, verdict.
    Alom et al. and Garg et al. print none.
    """
    tables(paper)
    columns = ["paper", "equation", "of", "printed", "usual", "verdict"]
    table = pd.DataFrame(_EQUATIONS, columns=columns)
    return table if paper is None else table[table["paper"] == paper].reset_index(drop=True)


def screening_rows() -> pd.DataFrame:
    """Recall, specificity and accuracy of Khan's tables 2 and 3 as printed, for `scan_sizes`."""
    both = pd.concat([published("khan", t, numeric=False) for t in (2, 3)], ignore_index=True)
    names = {"Recall": "recall", "Specificity": "specificity", "%Accuracy": "accuracy"}
    return both[list(names)].rename(columns=names)


# --- what no rule for tables says ----------------------------------------------------------------


def _cell(paper: str, place: tuple) -> tuple[str, str]:
    """Where a place is and what stands there, without its interval."""
    if len(place) == 2:
        return place
    table, row, column = place
    frame = published(paper, table, numeric=False)
    for key, value in row.items():
        frame = frame[frame[key] == value]
    name = f"table {table}" if table.isdecimal() else table
    return name, re.split(r"\s*±|\s+\[", frame[column].iloc[0])[0]


def _twice(paper: str, table: str) -> Iterable[Finding]:
    for of, within, quantity, *places, severity in _TWICE:
        if (of, within) != (paper, table):
            continue
        (here, one), (there, other) = (_cell(paper, p) for p in places)
        fits = one.replace(",", "") == other.replace(",", "")
        words = "the same in both places" if fits else "two values for one quantity"
        yield Finding(
            quantity,
            f"{here}, {there}",
            "stated twice",
            f"{one} ({here}) and {other} ({there})",
            words,
            "consistent" if fits else severity,
        )


def _further(paper: str, table: str) -> Iterable[Finding]:
    if (paper, table) == ("khan", "3"):
        yield from _khan_accuracies()
    if (paper, table) == ("khan", "5"):
        yield Finding(
            "all", "", "pixel share", "38.6 % of all pixels; 74 test slices",
            "more than infection covers in the slices of Ma et al., to whom the paper credits the "
            "data: 2.3 % on average and at most 10.1 % in 385 slices of 14 patients, where the lungs "
            "make 16.2 % and at most 24.9 %; cropped images, or masks of something else, would explain it",
            "unexplained",
        )  # fmt: skip
    if (paper, table) == ("garg", "text01"):
        share = (6018 + 7395 + 12245) / 194922
        yield Finding(
            "COVIDx-CT, validation", "COVID-19, CAP, Normal", "share",
            f"6018 + 7395 + 12245 = 25,658; 25,658/194,922 = {share:.1%}",
            "the text calls the split 60-20-20; this is neither of the parts of 20 %", "unexplained",
        )  # fmt: skip
    if (paper, table) == ("ahmed", "5"):
        yield Finding(
            "Learning Rate", "Trained Range, Selected Value", "range", "0.01 in 0.1-0.05",
            "the value chosen is outside the range tried", "unexplained",
        )  # fmt: skip
        yield Finding(
            "Learning Rate Step", "Selected Value", "range", "30, 60, 90 in 25 epochs",
            "the steps come after the last epoch, so the rate never falls", "unexplained",
        )  # fmt: skip
    if (paper, table) == ("tahir", "1"):
        yield Finding(
            "SARS", "Training, Augmented, Validation, Test Samples", "sum",
            "86 + 21 + 27 = 134 and 21 · 86 = 1,806, as 7 · 270 = 1,890 and 21 · 92 = 1,932",
            "the augmented images are no multiple of the 89 printed; with 86 for 89 and 27 for 26 the "
            "row adds up and is one",
            "unexplained",
        )  # fmt: skip
    if (paper, table) == ("tahir", "text01"):
        for of, compiled, parts in (
            ("normal", 10701, (8851, 1000, 4000)),
            ("non-COVID-19", 11263, (6012, 1300, 1700, 4000)),
        ):
            yield Finding(
                of, "Images", "sum",
                f"{' + '.join(f'{p:,}' for p in parts)} = {sum(parts):,}, compiled {compiled:,}",
                "duplicates and poor images were removed; how many is not stated", "unexplained",
            )  # fmt: skip


def _khan_accuracies() -> Iterable[Finding]:
    """Tables 2 and 3 together: what may have been counted."""
    rows = screening_rows()
    values = list(dict.fromkeys(rows["accuracy"]))
    for runs, how in ((1, "single proportions"), (5, "means over 5 runs")):
        fits = [v for v in values if attainable(v, 166, runs=runs)]
        chance = attainable("97.97", 166, runs=runs).chance
        yield Finding(
            "tables 2 and 3", "%Accuracy", "granularity",
            f"{len(fits)} of {len(values)} different accuracies: {', '.join(fits)}",
            f"attainable as {how} of n = 166; so are {chance:.1%} of all numbers: no more than chance",
            "unexplained",
        )  # fmt: skip
    seen = scan_sizes(rows, accuracy="balanced_accuracy").stack().sort_values(ascending=False)
    plain = scan_sizes(rows).max().max()
    (n_pos, n_neg), most = seen.index[0], seen.iloc[0]
    yield Finding(
        "tables 2 and 3", "%Accuracy, Recall, Specificity", "class sizes",
        f"{most} of {len(rows.drop_duplicates())} different rows fit {n_pos} + {n_neg} if accuracy is "
        f"(recall + specificity)/2; of {len(seen):,} pairs of sizes no other fits more than "
        f"{seen.iloc[1]}; with plain accuracy none fits more than {plain}",
        f"these rows read as balanced accuracy, recall of {n_pos} and specificity of {n_neg} images; a "
        "fifth of 370 infected and 459 healthy is 74 and 92, so Recall would be of the healthy",
        "unexplained",
    )  # fmt: skip


# --- docs/claims.md ------------------------------------------------------------------------------

_NAMES = {
    "khan": "Khan et al.",
    "alom": "Alom et al.",
    "garg": "Garg et al.",
    "ahmed": "Ahmed et al.",
    "tahir": "Tahir",
}

_INTRO = """# What the published tables can and cannot say

Written by `covidlab.appraisal.claims_markdown()`, and a test holds it to that: change the code, not this file.
Notebook 12 teaches the same by hand.

Every table of the five papers (`data/published/`) was put to every rule that applies: can this
percentage be a count; is there a confusion matrix; do the columns agree; do the parts add up; are
the printed intervals what they are said to be. It is arithmetic on printed numbers. It says nothing
about how good a method is, and nothing about why a number is as it is.

- **impossible**: no predictions give these cells under the definitions and counts that the paper
  states. Think of a misprint first.
- **unexplained**: not as stated, but an ordinary reading that the paper does not state would do:
  a mean over runs, another denominator, another average.
- **consistent**: checked, and nothing is wrong.

A printed number may have been rounded or cut; both are allowed for every cell by itself. Numbers and
equations were read in the papers' extracted text; where it is damaged, `data/published/index.csv`
says so. Check a finding against the paper before you repeat it.
"""

_HIGHLIGHTS = """## What stands out

1. **Khan, tables 2 and 3: what was counted?** {single} of {accuracies} different accuracies can be a share of the 166
   test images, and {five} can be a mean over five runs on them: what chance gives. But {fit} of {rows}
   different rows fit exactly if `%Accuracy` is the mean of Recall and Specificity (balanced accuracy),
   Recall a share of 92 and Specificity of 74. Of 8,100 pairs of class sizes no other fits more than {next}.
   A fifth of the 370 infected and 459 healthy images is 74 and 92, so in these rows what is headed Recall
   would be of the healthy. One row (98.80 %) fits as headed; the other 15 fit no reading that was tried.
2. **Khan, table 3: two areas that cannot be.** An AUC of 0.67 beside recall 0.98 and specificity 0.97 is
   impossible for the ROC curve and for the precision–recall curve; so is 0.73 beside 0.96 and 0.97. The
   printed intervals belong to 0.67 and 0.73, so the values are not slips of the pen.
3. **Khan, tables 5 and 6: infection of what?** In {models} of 16 models of table 5 all columns imply one share of
   infected pixels, and all {models} agree on {share}. In the public slices of Ma et al., to whom the data are
   credited, infection makes 2.3 % and the whole lungs 16.2 %. Dice lies below IoU in {dice} of 44 rows, and
   its ± is 1 − Dice.
4. **Ahmed, tables 6 and 7: two columns under other names.** In every fold with an error the accuracy is above
   both sensitivity and specificity, which cannot be. One reading explains all of them: the specificity
   is the negative predictive value, and, but in fold 10, the accuracy is the balanced accuracy. Those
   folds then missed one or two COVID-19 images and raised no false alarm, as figure 13a has it.
5. **Tahir, table 4: one matrix, or a mean over folds?** The thesis computes per-class values from one confusion matrix
   over all folds. Segmented ResNet18 has one; the other {folds} class rows have none, and behave as
   means over folds.
6. **Tahir, tables 8 and 10: too short.** The intervals of sensitivity and specificity take all test images for
   n, and are up to 1.4 and 1.8 times too short. Otherwise both tables hold: table 10 gives back each
   network's hits, misses and false calls per class.
7. **Garg, tables I and II: all in order.** And the class sizes of the test set, which the paper does not give,
   follow: 35 normal, 20 CAP, 35 COVID-19.
"""

_LIMITS = """## What this cannot see

- A number that passes may still be wrong: a consistent table can come from leaky data.
- With many images nearly every number passes the test of granularity: of 6,788 all do.
- Matrices are searched exactly, over every count. For three and more classes the search is over each class's hits, misses and false calls; which class an error went to no such metric tells.
- A mean over runs has no confusion matrix. What still binds it (F1 at most the harmonic mean of the means, AUC at least recall + specificity − 1) is what *impossible* leans on.
- Class sizes that a paper does not state are inferred (Khan: 74 + 92, a fifth of 370 infected and 459 healthy images; Ahmed's table 7: those of table 6), and nothing that leans on them is called impossible.
- Pixel shares take accuracy and IoU as pooled over all pixels. If they are means over images, the routes need not agree.
"""


def claims_markdown(findings: pd.DataFrame | None = None) -> str:
    """The text of `docs/claims.md`: all findings (`appraise`'s), by paper, with the arithmetic."""
    findings = appraise() if findings is None else findings
    parts = [_INTRO, _HIGHLIGHTS.format(**_highlight_numbers(findings)), "## How many\n"]
    totals = findings.groupby("paper", sort=False)["severity"].value_counts().unstack(fill_value=0)
    totals = totals[list(SEVERITIES)].rename(index=_NAMES)
    parts.append(_markdown(["paper", *SEVERITIES], totals.reset_index().to_numpy()))
    parts.append("Checks, not errors: one doubtful cell can fail several.\n")
    for paper, name in _NAMES.items():
        parts.append(f"## {name}\n")
        ours = findings[findings["paper"] == paper]
        doubtful = ours[ours["severity"] != "consistent"]
        rows = [_grouped(group) for group in _alike(doubtful)]
        parts.append(
            _markdown(["table", "rule", "where and arithmetic", "verdict", "severity"], rows)
            if rows
            else "Nothing is impossible or unexplained.\n"
        )
    parts.append("## Every table\n")
    covered = coverage(findings).reset_index()
    covered["paper"] = covered["paper"].map(_NAMES)
    empty = covered[list(SEVERITIES)].sum(axis=1) == 0
    shown = covered.astype(object)
    shown.loc[empty, list(SEVERITIES)] = "–"
    parts.append(_markdown(list(covered), shown.to_numpy()))
    parts.append("– : nothing to compute (definitions, recipes, architectures).\n")
    parts.append("## Printed equations\n")
    parts.append(
        "Every metric that is printed as an equation, and the other equations that are wrong. Alom "
        "et al. and Garg et al. print none.\n"
    )
    printed = equations().assign(paper=lambda t: t["paper"].map(_NAMES))
    parts.append(_markdown(list(printed), printed.to_numpy()))
    return "\n".join([*parts, _LIMITS])


def write_claims(path: str | Path) -> None:
    """Writes `docs/claims.md`."""
    Path(path).write_text(claims_markdown(), encoding="utf-8")


def _highlight_numbers(findings: pd.DataFrame) -> dict[str, object]:
    rows = screening_rows()
    values = rows["accuracy"].drop_duplicates()
    fits = sorted(scan_sizes(rows, accuracy="balanced_accuracy").to_numpy().ravel())

    def of(paper, rule, table=None):
        found = findings[(findings["paper"] == paper) & (findings["rule"] == rule)]
        return found if table is None else found[found["table"] == table]

    shares = of("khan", "pixel share", "5").set_index("row").loc["all"].iloc[0]["arithmetic"]
    models, _, share = re.match(r"(\d+) of (\d+) agree on (.*)", shares).groups()
    overlap, matrix = of("khan", "Dice and IoU"), of("tahir", "matrix", "4")
    matrix = matrix[matrix["verdict"].str.contains("gives this row")]
    return {
        "accuracies": len(values),
        "single": sum(bool(attainable(v, 166)) for v in values),
        "five": sum(bool(attainable(v, 166, runs=5)) for v in values),
        "rows": len(rows.drop_duplicates()),
        "fit": fits[-1],
        "next": fits[-2],
        "models": models,
        "share": share,
        "dice": (overlap["severity"] != "consistent").sum(),
        "folds": (matrix["severity"] != "consistent").sum(),
    }


def _alike(findings: pd.DataFrame) -> list[pd.DataFrame]:
    """Findings of one table and rule whose verdicts differ in numbers only."""
    shape = findings["verdict"].str.replace(r"[\d.,%]+", "#", regex=True)
    keys = [findings["table"], findings["rule"], findings["severity"], shape]
    return [group for _, group in findings.groupby(keys, sort=False)]


def _grouped(group: pd.DataFrame, shown: int = 3) -> list[str]:
    """One line of the document: up to three rows with their arithmetic, and how many more."""
    first = group.iloc[0]
    few = group if first["severity"] == "impossible" else group.head(shown)
    lines = [f"{r.row}: {r.arithmetic}" for r in few.itertuples()]
    if len(few) < len(group):
        lines.append(f"and {len(group) - len(few)} more rows")
    verdict = first["verdict"]
    return [first["table"], first["rule"], "<br>".join(lines), verdict, first["severity"]]


def _markdown(columns: list[str], rows) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(c) for c in line)} |\n" for line in lines)
