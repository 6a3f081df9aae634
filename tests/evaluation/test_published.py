"""The transcribed tables against values typed by hand, the papers' own sums, and the join."""

import math

import numpy as np
import pandas as pd
import pytest

from covidlab import evaluation, paths
from covidlab.evaluation.papers import published, tables

FOLDER = paths.data() / "published"
INDEX = tables()
KEYS = list(zip(INDEX["paper"], INDEX["table"], strict=True))

# rows and columns, counted in the papers
SHAPES = {
    ("khan", "1"): (15, 3),
    ("khan", "2"): (4, 9),
    ("khan", "3"): (27, 9),
    ("khan", "4"): (4, 4),
    ("khan", "5"): (32, 11),
    ("khan", "6"): (12, 11),
    ("khan", "text01"): (10, 3),
    ("alom", "text01"): (6, 12),
    ("alom", "text02"): (16, 4),
    ("alom", "text03"): (8, 6),
    ("alom", "text04"): (4, 7),
    ("garg", "1"): (3, 5),
    ("garg", "2"): (1, 4),
    ("garg", "text01"): (7, 7),
    ("ahmed", "1"): (12, 3),
    ("ahmed", "2"): (3, 4),
    ("ahmed", "3"): (9, 3),
    ("ahmed", "4"): (32, 4),
    ("ahmed", "5"): (7, 3),
    ("ahmed", "6"): (11, 4),
    ("ahmed", "7"): (4, 4),
    ("ahmed", "text01"): (6, 4),
    ("tahir", "1"): (5, 8),
    ("tahir", "2"): (8, 7),
    ("tahir", "3"): (1, 4),
    ("tahir", "4"): (32, 8),
    ("tahir", "5"): (15, 5),
    ("tahir", "6"): (2, 6),
    ("tahir", "7"): (15, 5),
    ("tahir", "8"): (15, 7),
    ("tahir", "9"): (2, 7),
    ("tahir", "10"): (20, 7),
    ("tahir", "11"): (15, 4),
    ("tahir", "12"): (5, 3),
    ("tahir", "text01"): (20, 3),
}

# (paper, table, what the row begins with, header, cell), typed from the papers
CELLS = [
    ("khan", 1, ["Specificity"], "Symbol", "S"),
    ("khan", 2, ["Proposed CoV-CTNet", "IDWT"], "%Accuracy", "98.80"),
    ("khan", 2, ["Proposed CoV-CTNet", "IDWT"], "AUC [L, H]", "0.99 [0.97,1]"),
    ("khan", 2, ["ResNet-18", "IDWT"], "%Accuracy", "97.15"),
    ("khan", 2, ["ResNet-18", "Original"], "Precision", "0.95"),
    ("khan", 3, ["DenseNet201", "Trained from scratch (O)"], "Precision", "95.95"),
    ("khan", 3, ["VGG16", "Fine-tuned"], "AUC [L, H]", "0.67 [0.58, 0.75]"),
    ("khan", 3, ["ShuffleNet", "Trained from scratch (O)"], "MCC", "0.78"),
    ("khan", 3, ["Inception-V3", "Fine-tuned"], "Specificity", "0.93"),
    ("khan", 4, ["SA-CoV-RASeg", "Background (Ground truth)"], "% Background", "99.70"),
    ("khan", 5, ["SA-CoV-RASeg", "Infected"], "DS ± Error", "0.953±0.047"),
    ("khan", 5, ["CoV-RASeg", "Background"], "%W_IOU", "98.96"),
    ("khan", 5, ["VGG-16 SA", "Infected"], "%M_Acc", "99.18"),
    ("khan", 5, ["Deeplabv3_1", "Infected"], "%IOU", "49.69"),
    ("khan", 6, ["SegNet", "Infected"], "%BFS", "97.06"),
    ("khan", 6, ["deeplabv3_2", "Background"], "%G_Acc", "99.54"),
    ("khan", "text01", ["Classification", "test"], "Images", "166"),
    ("alom", "text01", ["COVID-Det_X-ray"], "Accuracy (%)", "84.67"),
    ("alom", "text01", ["COVID-Det_CT"], "Accuracy (%)", "98.78"),
    ("alom", "text01", ["COVID-Seg_X-ray"], "DC", "0.8846"),
    ("alom", "text01", ["COVID-Seg_CT"], "Global accuracy", "0.9956"),
    ("alom", "text02", ["COVID-19 CT", "test"], "Images", "45"),
    ("alom", "text03", ["figure 12", "last"], "Infected (%)", "37.58"),
    ("alom", "text04", ["COVID-Det_X-ray"], "Epochs", "75"),
    ("garg", 1, ["Pretrained"], "Sensitivity(%) / COVID", "81.32"),
    ("garg", 1, ["Slice Level"], "Accuracy (%)", "95.76"),
    ("garg", 1, ["Patient Level"], "Accuracy (%)", "94.90"),
    ("garg", 1, ["Patient Level"], "Sensitivity(%) / CAP", "89.47"),
    ("garg", 2, ["88.89"], "Sensitivity(%) / CAP", "90.00"),
    ("garg", "text01", ["COVID-CT-MD", "validation", "patients"], "CAP", "19"),
    (
        "ahmed",
        1,
        ["Truncated Inception Net [16]"],
        "Performance",
        "Accuracy of 99.96% (AUC of 1.0)",
    ),
    ("ahmed", 2, ["Covid Public Repository"], "Number of Images", "472"),
    ("ahmed", 3, ["Shear"], "Values", "X-axis – (-0.2, 0.2) Y-axis – None"),
    ("ahmed", 4, ["Conv2d 6a"], "Parameters", "64 × 64 × 512"),
    ("ahmed", 4, ["Conv2d 10"], "Activation", "ReLU"),
    ("ahmed", 5, ["Learning Rate"], "Trained Range", "0.1-0.05"),
    ("ahmed", 5, ["Learning Rate Step"], "Selected Value", "30, 60, 90"),
    ("ahmed", 6, ["10"], "Testing Specificity (%)", "96.15"),
    ("ahmed", 6, ["Average"], "Testing Accuracy (%)", "99.29"),
    ("ahmed", 7, ["Proposed Model"], "Testing Accuracy (%)", "99.26"),
    ("ahmed", 7, ["DenseNet121"], "Testing Sensitivity (%)", "90.24"),
    ("tahir", 1, ["CXR Classification", "COVID-family", "SARS"], "Training Samples", "89"),
    ("tahir", 2, ["COVID-QU dataset"], "Test Samples", "2,395"),
    ("tahir", 3, ["U-Net"], "DSC (%)", "96.35 ± 1.39"),
    (
        "tahir",
        4,
        ["Segmented X-rays", "Inceptionv3 (Original)", "MERS"],
        "Sensitivity",
        "79.68 ± 6.57",
    ),
    (
        "tahir",
        4,
        ["Plain X-rays", "SqueezeNet (Original)", "COVID-19"],
        "Accuracy",
        "88.27 ± 3.07",
    ),
    ("tahir", 5, ["FPN", "DenseNet121"], "IoU", "96.11 ± 0.46"),
    ("tahir", 6, ["FPN", "DenseNet161", "Segmented CXR"], "DSC", "86.84 ± 1.94"),
    ("tahir", 7, ["U-Net ++", "DenseNet121"], "DSC", "88.21 ± 1.85"),
    ("tahir", 8, ["U-Net ++", "ResNet18"], "Specificity", "100 ± 0"),
    ("tahir", 9, ["InceptionV4", "Plain CXR"], "Sensitivity", "95.53 ± 0.49"),
    ("tahir", 10, ["InceptionV4", "COVID-19"], "Sensitivity", "91.52 ± 0.66"),
    ("tahir", 11, ["U-Net ++", "DenseNet161"], "Trainable parameters", "79.04 M"),
    ("tahir", 12, ["ResNet18"], "Inference Time (ms)", "3.83"),
]


def row(frame, start):
    """The first row whose cells begin with `start`."""
    hit = (frame.iloc[:, : len(start)] == start).all(axis=1)
    assert hit.any(), f"no row begins with {start}"
    return frame[hit].iloc[0]


# ------------------------------------------------------------------ the folder


def test_index_and_files_agree_both_ways():
    on_disk = {f.name for f in FOLDER.glob("*.csv")} - {"index.csv", "sources.csv"}
    assert set(INDEX["file"]) == on_disk
    assert INDEX["file"].is_unique and not INDEX[["paper", "table"]].duplicated().any()
    for _, r in INDEX.iterrows():
        number = f"table{int(r['table']):02d}" if r["table"].isdecimal() else r["table"]
        assert r["file"] == f"{r['paper']}_{number}.csv"


def test_all_numbered_tables_of_each_paper_are_there():
    numbered = INDEX[INDEX["table"].str.isdecimal()].groupby("paper")["table"].agg(list).to_dict()
    expected = {"khan": 6, "garg": 2, "ahmed": 7, "tahir": 12}  # Alom et al. print none
    assert numbered == {p: [str(i + 1) for i in range(n)] for p, n in expected.items()}


def test_index_speaks_a_fixed_vocabulary():
    kinds = {"results", "data", "recipe", "architecture", "definitions", "related"}
    assert set(INDEX["kind"]) == kinds
    assert set(INDEX["units"]) == {"", "percent", "as headed"}
    assert ((INDEX["kind"] == "results") == (INDEX["units"] != "")).all()
    assert (INDEX[["caption", "notes"]] != "").all(axis=None)


def test_every_table_has_its_shape():
    assert {k: published(*k, numeric=False).shape for k in KEYS} == SHAPES


@pytest.mark.parametrize("paper, table", KEYS)
def test_cells_are_clean_and_empty_only_where_the_notes_say_so(paper, table):
    raw = published(paper, table, numeric=False)
    assert raw.columns.is_unique and not raw.duplicated().any()
    text = pd.concat([raw.melt()["value"], raw.columns.to_series()])
    assert (text == text.str.strip()).all() and not text.str.contains("  |\n|\t").any()
    # look-alike letters and signs would break joins: Khan's Type is Cyrillic in the source
    assert set("".join(text)) - set("±×–—−") <= {chr(c) for c in range(32, 127)}
    if "Empty cells" in raw.attrs["notes"]:
        assert (text == "").any()
    else:
        assert (text != "").all()


@pytest.mark.parametrize("paper, table, start, header, cell", CELLS)
def test_cells_typed_by_hand(paper, table, start, header, cell):
    assert row(published(paper, table, numeric=False), start)[header] == cell


def test_each_paper_has_enough_hand_typed_cells():
    assert pd.Series([c[0] for c in CELLS]).value_counts().min() >= 5


def test_readme_cites_every_source():
    sources = pd.read_csv(FOLDER / "sources.csv")
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(sources["paper"]) == set(INDEX["paper"])
    assert all(c in readme for c in sources["citation"])


@pytest.mark.parametrize(
    "paper, table, words",
    [
        ("khan", 2, ["97.17", "166", "829", "neither roc_auc nor pr_auc"]),
        ("khan", 3, ["95.95", "0.67", "Cyrillic", "auc"]),
        ("khan", 5, ["99.18", "82.27", "97.15", "DS + Error is 1", "damaged"]),
        ("khan", 6, ["CN-4", "exchanged"]),
        ("alom", "text01", ["no table", "84.67", "83.5"]),
        ("alom", "text02", ["425", "300"]),
        ("garg", 1, ["25,658", "98"]),
        ("ahmed", 1, ["1428", "58 80", "99.92"]),
        ("ahmed", 5, ["outside", "25 epochs"]),
        ("ahmed", 6, ["99.26", "98.52", "negative predictive value"]),
        ("ahmed", 7, ["99.29"]),
        ("tahir", 1, ["136", "703", "462"]),
        ("tahir", 4, ["no header", "88.13"]),
        ("tahir", 10, ["four", "92.82"]),
        ("tahir", 11, ["79.04"]),
    ],
)
def test_notes_name_the_oddities(paper, table, words):
    notes = published(paper, table).attrs["notes"]
    assert [w for w in words if w not in notes] == []


# ------------------------------------------------------------------ what must hold inside


def test_khan_table_3_is_nine_networks_thrice_with_one_impossible_fraction():
    t = published("khan", 3)
    assert t["Model"].nunique() == 9
    types = ["Trained from scratch (D)", "Trained from scratch (O)", "Fine-tuned"]
    assert t["Type"].tolist() == types * 9
    assert t["%Accuracy"].between(80, 100).all()
    fractions = t.drop(columns=["Model", "Type", "%Accuracy"])
    wrong = fractions.melt()[lambda m: ~m["value"].between(0, 1)]
    assert wrong.to_numpy().tolist() == [["Precision", 95.95]]
    assert (t["AUC low"] < t["AUC"]).all() and (t["AUC"] < t["AUC high"]).all()


def test_khan_resnet18_is_the_same_in_tables_2_and_3():
    two, three = published("khan", 2), published("khan", 3)
    values = two.columns[2:]
    first = two[two["Model"] == "ResNet-18"][values].to_numpy()
    assert (first == three[three["Model"] == "Resnet18"][values].to_numpy()[:2]).all()


def test_khan_segmentation_tables_agree_with_their_own_means():
    four = published("khan", 4)
    assert np.allclose(four[["% COVID-19 Infected", "% Background"]].sum(axis=1), 100)
    for table, off in ((5, {"U-SegNet SA", "U-SegNet"}), (6, {"deeplabv3_1", "deeplabv3_2"})):
        t = published("khan", table)
        assert np.allclose(t["DS"] + t["DS ±"], 1)
        assert t["Region"].tolist() == ["Infected", "Background"] * (len(t) // 2)
        disagree = set()
        for mean, part in (("%M_Acc", "%Acc"), ("%M_IOU", "%IOU"), ("%M_BFS", "%BFS")):
            by_model = t.groupby("Model")
            assert (by_model[mean].nunique() == 1).all()
            gap = (by_model[part].mean() - by_model[mean].first()).abs()
            disagree |= set(gap.index[gap > 0.0051])
        assert disagree == off
    five = published("khan", 5).set_index(["Model", "Region"])["%Acc"]
    diagonal = [99.14, 99.69, 99.19, 99.70]
    models = ["CoV-RASeg", "SA-CoV-RASeg"]
    assert [five[m, r] for m in models for r in ("Infected", "Background")] == diagonal
    assert [four.iloc[i, 2 + i % 2] for i in range(4)] == diagonal


def test_ahmed_folds_average_to_the_table_and_not_to_the_text():
    t = published("ahmed", 6).set_index("Fold Number")
    folds, average = t.drop(index="Average"), t.loc["Average"]
    assert list(folds.index) == [str(i) for i in range(1, 11)]
    assert (folds.mean() - average).abs().max() < 0.01
    assert round(folds["Testing Accuracy (%)"].mean(), 2) == 99.29
    seven = published("ahmed", 7).set_index("Model").loc["Proposed Model"]
    assert seven["Testing Accuracy (%)"] == 99.26


def test_ahmed_specificities_are_negative_predictive_values():
    t = published("ahmed", 6).set_index("Fold Number").drop(index="Average")
    missed = 41 - (t["Testing Sensitivity (%)"] / 100 * 41).round()
    npv = 100 * 50 / (50 + missed)
    assert set(missed) == {0, 1, 2}
    assert (npv - t["Testing Specificity (%)"]).abs().max() < 0.01


def test_ahmed_network_is_consistent_from_layer_to_layer():
    t = published("ahmed", 4)
    convs = t[t["Layer"].str.fullmatch(r"Conv2d \d+b?")].index
    assert t["Layer"].str.startswith("Conv2d ").sum() == 19
    assert (t.loc[convs[convs > 0], "Parameters"] == t.loc[convs - 1, "Output Shape"].values).all()
    assert (t["Layer"] == "Concatenate").sum() == (t["Output Shape"] == "").sum() == 4


def test_ahmed_primary_selection_sums_to_what_the_text_says():
    assert published("ahmed", 2)["Number of Images"].sum() == 2472


def test_garg_sensitivities_are_whole_counts_that_give_the_accuracies():
    sets = published("garg", "text01")
    counts = sets[sets["Set"] == "validation"][["Normal", "CAP", "COVID-19"]].to_numpy()
    for values, n in zip(published("garg", 1).iloc[:, 1:].to_numpy(), counts, strict=True):
        right = (values[1:] / 100 * n).round()
        assert np.allclose(100 * right / n, values[1:], atol=0.0051)
        assert math.isclose(100 * right.sum() / n.sum(), values[0], abs_tol=0.0051)
    totals = sets.dropna()
    assert (totals[["COVID-19", "CAP", "Normal"]].sum(axis=1) == totals["All"]).all()
    assert len(totals) == 2


def test_alom_counts_and_shares():
    data = published("alom", "text02").set_index(["Data", "Set", "Class"])["Images"]
    x, ct = data["Pneumonia X-ray [22]"], data["COVID-19 CT"]
    assert x["all", "normal"] + x["all", "pneumonia"] == x["all", "all"] == 5216
    assert x["test", "normal"] + x["test", "pneumonia"] == x["test", "all"] == 624
    assert ct["training and validation", "all"] + ct["test", "all"] == ct["all", "all"] == 420
    assert ct["all", "normal"] + ct["all", "COVID-19"] == 425  # the paper's slip, kept
    t = published("alom", "text03").dropna()
    share = 100 * t["Infected pixels"] / t["Lung pixels"]
    assert len(t) == 3 and (share - t["Infected (%)"]).between(0, 0.01).all()


def test_tahir_counts_add_up_but_for_sars():
    one = published("tahir", 1).set_index("Class")
    parts = one["Training Samples"] + one["Validation Samples"] + one["Test Samples"]
    assert (parts - one["# of Samples"]).to_dict() == {
        "-": 0,
        "COVID-19": 0,
        "MERS": 0,
        "SARS": 2,
        "Total": 2,
    }
    two = published("tahir", 2)
    samples = two.columns[3:]
    assert (two[samples[1:]].sum(axis=1) == two["# of Samples"]).all()
    for _, block in two.groupby("Task"):
        total = block["Class"] == "Total"
        assert (block.loc[~total, samples].sum() == block.loc[total, samples].iloc[0]).all()
    source = published("tahir", "text01")
    covid = source[(source["Class"] == "COVID-19") & source["Source"].str.contains(r"\[4[89]|\[5")]
    assert covid["Images"].sum() == 11956


TAHIR_N = {"3": 704, "5": 6788, "6": 1166, "7": 1166, "8": 1166, "9": 6788, "10": 6788}
COVID_FAMILY = {"COVID-19": 423, "MERS": 144, "SARS": 134, "Overall": 701}


@pytest.mark.parametrize("table", ["3", "4", "5", "6", "7", "8", "9", "10"])
def test_tahir_every_half_width_is_equation_8(table):
    t = published("tahir", table)
    n = t["Class"].map(COVID_FAMILY) if table == "4" else TAHIR_N[table]
    for c in [c for c in t.columns if c + " ±" in t.columns]:
        p = t[c] / 100
        width = 196 * np.sqrt(p * (1 - p) / n)
        assert (width - t[c + " ±"]).abs().max() < 0.0151, c


def test_tahir_detection_rows_are_whole_confusion_matrices():
    t = published("tahir", 8)
    tp, tn = (t["Sensitivity"] * 5.83).round(), (t["Specificity"] * 5.83).round()
    fp, fn = 583 - tn, 583 - tp
    recomputed = {
        "Accuracy": (tp + tn) / 1166,
        "Precision": tp / (tp + fp),
        "Sensitivity": tp / 583,
        "F1-score": 2 * tp / (2 * tp + fp + fn),
        "Specificity": tn / 583,
    }
    for metric, value in recomputed.items():
        # F1 was computed from precision and sensitivity already rounded
        rounding = 0.0101 if metric == "F1-score" else 0.0051
        assert (100 * value - t[metric]).abs().max() < rounding, metric


def test_tahir_three_class_overall_is_the_weighted_average():
    n = published("tahir", 2).iloc[:3].set_index("Class")["Test Samples"]
    weight = {"COVID-19": n["COVID-19"], "non-COVID": n["non-COVID-19"], "Normal": n["Normal"]}
    for model, block in published("tahir", 10).groupby("Model"):
        block = block.set_index("Class")
        w = pd.Series(weight)
        for metric in ("Accuracy", "Precision", "Sensitivity", "F1-score", "Specificity"):
            average = (block.loc[w.index, metric] * w).sum() / w.sum()
            assert abs(average - block.loc["Overall", metric]) < 0.0101, (model, metric)


def test_tahir_tables_repeat_each_other_where_they_should():
    plain = published("tahir", 6).iloc[0]
    same = row(published("tahir", 7), ["FPN", "DenseNet161"])
    assert plain[same.index].equals(same)
    segmented = published("tahir", 9).iloc[1]
    overall = row(published("tahir", 10), ["InceptionV4", "Overall"])
    assert segmented.iloc[2:].tolist() == overall.iloc[2:].tolist()


# ------------------------------------------------------------------ reading


def test_numeric_reading_of_every_kind_of_cell():
    khan = published("khan", 2).iloc[0]
    assert (khan["AUC"], khan["AUC low"], khan["AUC high"]) == (0.99, 0.97, 1)
    assert khan["%Accuracy"] == 98.8  # percent stays percent
    tahir = published("tahir", 3).iloc[0]
    assert (tahir["Accuracy (%)"], tahir["Accuracy (%) ±"]) == (98.21, 0.98)
    assert published("tahir", 2)["# of Samples"].iloc[0] == 11956
    assert published("tahir", 12)["Trainable parameters"].iloc[0] == pytest.approx(11_180_000)
    augmented = published("tahir", 1)["Augmented Training Samples"]
    assert math.isnan(augmented[0]) and augmented[1] == 1890
    # one cell that is no number keeps the whole column as printed
    assert published("ahmed", 5)["Selected Value"].tolist()[:3] == ["0.01", "0.1", "30, 60, 90"]


def test_without_numeric_every_cell_is_what_is_printed():
    raw = published("tahir", 10, numeric=False)
    assert raw["Accuracy"].iloc[0] == "92.1 ± 0.64"
    assert all(isinstance(v, str) for v in raw.to_numpy().ravel())


def test_attributes_go_with_every_result():
    ours = pd.DataFrame({"Model": ["VGG16"], "Type": ["Fine-tuned"], "mcc": [0.5]})
    for t in (published("khan", "03"), published("khan", 3, ours)):
        assert t.attrs["table"] == "3" and t.attrs["n"] == 166 and t.attrs["kind"] == "results"
        assert t.attrs["citation"].startswith("S. H. Khan") and "95.95" in t.attrs["notes"]
        assert "Nine existing networks" in t.attrs["caption"] and t.attrs["units"] == "as headed"
    assert published("ahmed", 7).attrs["n"] is None


def test_tables_filters_by_paper():
    assert tables("garg")["table"].tolist() == ["1", "2", "text01"]
    n = INDEX.set_index(["paper", "table"])["n"]
    assert n["tahir", "10"] == 6788 and n["khan", "2"] == 166 and n["garg", "1"] is pd.NA


def test_unknown_paper_or_table_names_what_exists():
    with pytest.raises(ValueError, match="no paper 'kahn'; there are khan, alom, garg"):
        published("kahn", 3)
    with pytest.raises(ValueError, match="no table 9; there are 1, 2, text01"):
        published("garg", 9)
    with pytest.raises(ValueError, match="alom has no table 1; there are text01"):
        published("alom", 1)


# ------------------------------------------------------------------ ours beside


@pytest.fixture
def ours():
    return pd.DataFrame(
        {
            "Type": ["Fine-tuned", "Trained from scratch (O)", "Fine-tuned"],
            "Model": ["Xception", "DenseNet201", "ConvNeXt"],
            "accuracy": [0.9, 0.8, 0.7],
            "accuracy low": [0.85, 0.75, 0.65],
            "accuracy high": [0.95, 0.85, 0.75],
            "precision": [0.5, 0.6, 0.7],
            "sensitivity": [0.3, 0.2, 0.1],
            "roc_auc": [0.99, 0.98, 0.97],
        }
    )


def test_beside_joins_on_the_shared_keys_in_one_unit(ours):
    t = published("khan", 3, ours)
    assert t.index.names == ["Model", "Type"] and t.columns.names == ["metric", "who"]
    assert t.columns.tolist() == [
        ("accuracy", "ours"),
        ("accuracy", "ours low"),
        ("accuracy", "ours high"),
        ("accuracy", "paper"),
        ("precision", "ours"),
        ("precision", "paper"),
        ("sensitivity", "ours"),
        ("sensitivity", "paper"),
    ]
    both = t.loc[("Xception", "Fine-tuned")]
    assert both["accuracy", "ours"] == 0.9 and both["accuracy", "ours high"] == 0.95
    assert both["accuracy", "paper"] == pytest.approx(0.9743)  # printed in percent
    assert both["sensitivity", "paper"] == 0.98  # printed as Recall
    # a misprint is not mended: the column is of fractions
    assert t.loc[("DenseNet201", "Trained from scratch (O)"), ("precision", "paper")] == 95.95


def test_beside_keeps_rows_of_one_side_paper_first(ours):
    t = published("khan", 3, ours)
    assert len(t) == 28
    assert t.index[0] == ("VGG16", "Trained from scratch (D)")
    assert t.index[-1] == ("ConvNeXt", "Fine-tuned")
    assert t.xs("paper", axis=1, level="who").iloc[-1].isna().all()
    assert t["accuracy", "ours"].notna().sum() == 3 and t["accuracy", "paper"].notna().sum() == 27


def test_beside_leaves_the_unsaid_auc_alone_until_it_is_named(ours):
    assert "auc" not in published("khan", 3, ours).columns.get_level_values("metric")
    t = published("khan", 3, ours.rename(columns={"roc_auc": "auc"}))
    assert t["auc"].columns.tolist() == ["ours", "paper", "paper low", "paper high"]
    assert t.loc[("Xception", "Fine-tuned"), ("auc", "paper low")] == 0.95
    mine = pd.DataFrame({"System": ["Pneumonia detection"], "Set": ["test"], "roc_auc": [0.5]})
    t = published("alom", "text01", mine)  # there the paper says that it is a ROC curve
    assert t.loc[("Pneumonia detection", "test"), ("roc_auc", "paper")] == 0.93


def test_beside_divides_percents_that_only_the_caption_states():
    mine = pd.DataFrame({"Model": ["FPN"], "Encoder": ["DenseNet121"], "dice": [0.9], "iou": [0.8]})
    t = published("tahir", 5, mine).loc[("FPN", "DenseNet121")]
    assert t["dice", "paper"] == pytest.approx(0.9799)
    assert t["dice", "paper ±"] == pytest.approx(0.0033)
    assert t["iou", "paper"] == pytest.approx(0.9611) and t["iou", "ours"] == 0.8


def test_beside_tells_fractions_from_percents_in_one_table():
    mine = pd.DataFrame(
        {
            "Model": ["VGG-16"],
            "Region": ["Infected"],
            "dice": [0.9],
            "iou": [0.8],
            "bf_score": [0.7],
        }
    )
    t = published("khan", 5, mine).loc[("VGG-16", "Infected")]
    assert t["dice", "paper"] == 0.95 and t["dice", "paper ±"] == 0.05
    assert t["iou", "paper"] == pytest.approx(0.9803)
    assert t["bf_score", "paper"] == pytest.approx(0.9771)
    # a region's share of found pixels is not what we call accuracy
    mine = mine.assign(accuracy=0.9)
    assert "accuracy" not in published("khan", 5, mine).columns.get_level_values("metric")


def test_beside_classes_and_keys_of_other_types():
    garg = pd.DataFrame({"Model": ["Patient Level"], "sensitivity / COVID": [0.9]})
    t = published("garg", 1, garg)
    assert t.loc["Patient Level", ("sensitivity / COVID", "paper")] == pytest.approx(0.9455)
    folds = pd.DataFrame({"Fold Number": [10, 11], "specificity": [0.5, 0.6]})
    t = published("ahmed", 6, folds, on="Fold Number")
    assert t.index.tolist() == [*(str(i) for i in range(1, 11)), "Average", "11"]
    assert t.loc["10"].tolist() == [0.5, pytest.approx(0.9615)]


def test_beside_a_table_of_one_row_without_keys():
    t = published("garg", 2, pd.DataFrame({"accuracy": [0.8]}, index=[7]))
    assert t.shape == (1, 2) and t["accuracy"].iloc[0].tolist() == [0.8, pytest.approx(0.8889)]
    with pytest.raises(ValueError, match="one row without keys"):
        published("garg", 2, pd.DataFrame({"accuracy": [0.8, 0.9]}))


def test_beside_takes_a_column_named_as_printed_in_the_papers_unit():
    mine = pd.DataFrame({"Model": ["ResNet18"], "Inference Time (ms)": [9.5]})
    t = published("tahir", 12, mine)
    assert t.loc["ResNet18"].tolist() == [9.5, 3.83]


def test_beside_leaves_our_frame_as_it_was(ours):
    before = ours.copy()
    published("khan", 3, ours)
    pd.testing.assert_frame_equal(ours, before)


def test_beside_refuses_what_it_cannot_join(ours):
    with pytest.raises(ValueError, match="does not tell the rows of khan 3 apart.*'Type'"):
        published("khan", 3, ours, on="Model")
    with pytest.raises(ValueError, match="does not tell the rows of ours apart"):
        published("khan", 3, pd.concat([ours, ours]))
    with pytest.raises(ValueError, match="none of the key columns of khan 3"):
        published("khan", 3, ours.drop(columns=["Model", "Type"]))
    with pytest.raises(ValueError, match=r"ours has no column \['CT sample'\]"):
        published("khan", 2, ours, on=["Model", "CT sample"])
    with pytest.raises(ValueError, match="no metric that khan 3 reports"):
        published("khan", 3, ours[["Model", "Type", "roc_auc"]])
    with pytest.raises(ValueError, match="'accuracy' of ours goes to 90: give fractions"):
        published("khan", 3, ours.assign(accuracy=[90.0, 0.8, 0.7]))
    with pytest.raises(ValueError, match="'accuracy' of ours is not numeric"):
        published("khan", 3, ours.assign(accuracy=["0.9", "0.8", "0.7"]))
    with pytest.raises(ValueError, match="numeric=False"):
        published("khan", 3, ours, numeric=False)


# --- recorded ------------------------------------------------------------------------------------


def test_recorded_tables_are_fractions_with_their_provenance():
    names = sorted(f.stem for f in (paths.data() / "recorded").glob("*.csv"))
    assert names
    for name in names:
        table = evaluation.recorded(name)
        trained = {"profile", "n"} if not name.startswith("leakage") else set()
        assert {"dataset"} | trained <= set(table), name
        assert "n" not in table or (table["n"] > 0).all()
        for low in [c for c in table if c.endswith(" low")]:
            value, high = table[low.removesuffix(" low")], table[low.replace(" low", " high")]
            assert value.dropna().between(-1, 1).all(), (name, low)
            known = table[low].notna()  # no MCC where a network gave one answer for all
            assert (table[low] <= high)[known].all(), (name, low)


def test_a_stated_number_is_the_cell_and_its_interval_wilsons():
    said = evaluation.stated("alom", "text01", "Images == 45", "Accuracy (%)", n=45)
    assert said["value"] == pytest.approx(0.9878) and said["n"] == 45
    share = evaluation.wilson(44, 45)  # 0.9878 of 45 is nearest to 44
    assert (said["low"], said["high"]) == pytest.approx((share.low, share.high))
    assert math.isnan(evaluation.stated("khan", 5, "index == 0", "DS")["low"])
    assert (
        evaluation.stated("khan", 5, "index == 0", "DS")["value"] == 0.953
    )  # as headed: no percent
    with pytest.raises(ValueError, match="4 rows"):
        evaluation.stated("khan", 2, "index >= 0", "%Accuracy")


def test_over_runs_is_the_mean_with_the_outermost_bounds():
    where = {"dataset": "ct-covidct-ucsd", "network": "stages 3, 4, 5"}
    rows = evaluation.recorded("garg_slices", **where)
    found = evaluation.over_runs("garg_slices", "roc_auc", **where)
    assert found["runs"] == len(rows) == 3 and found["n"] == 203
    assert found["value"] == pytest.approx(rows["roc_auc"].sum() / 3)
    assert found["low"] == rows["roc_auc low"].min() and found["high"] == rows["roc_auc high"].max()
    with pytest.raises(ValueError, match="no 'dice'"):
        evaluation.over_runs("garg_slices", "dice")


def test_recorded_names_what_there_is():
    with pytest.raises(ValueError, match="there are: .*khan_screening"):
        evaluation.recorded("khan_screening_of_tomorrow")
    with pytest.raises(ValueError, match="no row with dataset='mars'"):
        evaluation.recorded("khan_screening", dataset="mars")
    with pytest.raises(ValueError, match="no column 'planet'"):
        evaluation.recorded("khan_screening", planet="mars")
