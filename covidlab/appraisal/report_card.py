"""What the reporting checklists would ask of a trained model: filled in from its record, or asked.

"found" says that the run's own files show it, never that it is right or enough. No card states
that a checklist is complied with: that is for a reader of the whole study.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from covidlab import paths
from covidlab.datasets import Split
from covidlab.predictions import MaskPredictions, Predictions

from .checklist import ANSWERED, ASKED, ITEMS, STATUSES, UNCLEAR, Evidence


def report_card(
    record,
    predictions: Predictions | MaskPredictions | None = None,
    split: Split | None = None,
    answers: Mapping[str, str] | None = None,
    source: str | None = None,
    level: float = 0.95,
) -> ReportCard:
    """The card of one training: each item found, not found, unclear, or for you to answer.

    Parameters
    ----------
    record : the training's `RunRecord` (`learn.record`).
    predictions : what the network said of the images it was tested on.
    split : the parts it was trained and tested with; without it, what is in them cannot be looked
        at, and is unclear unless the record says it.
    answers : key of an item → your words, for what is asked or unclear (`card.questions`); beside
        what was found they stand as a remark.
    source : column that tells where an image comes from; by default "site" or "source", whichever
        is there and has fewer values than there are patients.

    Raises
    ------
    ValueError : no run record, a split that is not the record's, answers to items there are not,
        a source that is no column.
    """
    for part in ("recipe", "data", "environment", "seed"):
        if not hasattr(record, part):
            raise ValueError(
                f"record has no `{part}`; pass a RunRecord: learn.record or RunRecord.load(folder)"
            )
    if split is not None:
        _check_split(record, split)
    answers = {k: str(v).strip() for k, v in (answers or {}).items()}
    if unknown := sorted(set(answers) - {item.key for item in ITEMS}):
        raise ValueError(
            f"answers to {unknown}, which are no items; there are {[item.key for item in ITEMS]}"
        )
    run = Evidence(record, predictions, split, source, level)
    if source is not None and (run.frame is None or source not in run.frame):
        raise ValueError(f"source={source!r} is no column of the split or the predictions")
    rows = {}
    for key, topic, text, lists, check in ITEMS:
        status, value = check(run) if check else (ASKED, "")
        if said := answers.get(key):
            if status in (ASKED, UNCLEAR):
                status, value = ANSWERED, "; ".join(filter(None, [said, value and f"({value})"]))
            else:
                value = f"{value}; your remark: {said}"
        rows[key] = (topic, text, lists, status, value)
    columns = ["topic", "item", "checklists", "status", "value"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("key")
    of = f"{record.recipe.get('network', 'network')} on {record.data.get('dataset', 'its data')}"
    about = f"seed {record.seed}"
    if getattr(record, "started", ""):
        about += f", trained {record.started}"
    if getattr(record, "folder", None) is not None:
        about += f", run {Path(record.folder).name}"
    return ReportCard(table, of, about)


def _check_split(record, split):
    for name, mine in (
        ("images", {part: len(d) for part, d in split.parts.items()}),
        ("patients", {part: len(set(d.patients)) for part, d in split.parts.items()}),
        ("how", split.how),
    ):
        if record.data.get(name, mine) != mine:
            raise ValueError(
                f"split is not the record's: {name} {mine} against {record.data[name]}; pass the "
                "split that the network was trained with"
            )


@dataclass(frozen=True)
class ReportCard:
    """A filled-in card: `table` (one row per item), `questions` left, and HTML to show or save."""

    table: pd.DataFrame
    title: str
    about: str = ""

    def __repr__(self):
        return f"ReportCard({self.title}: {self._counted()})"

    @property
    def questions(self) -> dict[str, str]:
        """Key → item of what is still for you to answer, or unclear."""
        rows = self.table[self.table["status"].isin([ASKED, UNCLEAR])]
        return rows["item"].to_dict()

    def save(self, path) -> Path:
        """Writes the card as one HTML file that needs nothing else, whole or not at all."""
        path = Path(path)
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>Report card: {html.escape(self.title)}</title></head>\n"
            f"<body>{self._repr_html_()}</body></html>\n"
        )
        with paths.replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return path

    def _counted(self) -> str:
        counts = self.table["status"].value_counts()
        return ", ".join(f"{counts[s]} {s}" for s in STATUSES if s in counts)

    def _repr_html_(self) -> str:
        parts = [
            f"<style>{_STYLE}</style><div class='card'>",
            f"<h1>Report card: {html.escape(self.title)}</h1>",
            f"<p>{html.escape(self.about)}</p><p>{self._counted()}. {_NOTE}</p><table>",
            "<thead><tr><th>item</th><th>status</th><th>what the run shows, or you say</th>"
            "<th>asked by</th></tr></thead>",
        ]
        for topic, rows in self.table.groupby("topic", sort=False):
            parts.append(f"<tbody><tr><th colspan='4'>{html.escape(topic)}</th></tr>")
            for key, row in rows.iterrows():
                kind = row["status"].split()[0]
                cells = (html.escape(str(row[c])) for c in ("item", "status", "value"))
                item, status, value = cells
                key = f"<code>{key}</code>"
                parts.append(
                    f"<tr class='{kind}'><td>{item} {key}</td><td><b>{status}</b></td>"
                    f"<td>{value}</td><td>{html.escape(row['checklists'])}</td></tr>"
                )
            parts.append("</tbody>")
        return "\n".join([*parts, "</table></div>"])


_NOTE = (
    "“Found” says that the run's own files show it, not that it is right or enough; nothing here "
    "states that a checklist is complied with. CLAIM: items of the 2024 update; TRIPOD+AI: its "
    "sections; Roberts 2021: pitfalls of COVID-19 imaging models. Wording ours."
)
_STYLE = """
.card{font:14px/1.4 system-ui,sans-serif;color:#111;background:#fff;max-width:1000px;margin:1em auto}
.card h1{font-size:1.4em;margin:0 0 .2em}.card p{margin:.3em 0;color:#444}
.card table{border-collapse:collapse;width:100%;table-layout:fixed}
.card th,.card td{text-align:left;vertical-align:top;padding:.35em .6em;border-bottom:1px solid #ddd;
white-space:normal;overflow-wrap:anywhere}
.card thead th:nth-child(1){width:30%}.card thead th:nth-child(2){width:11%}
.card thead th:nth-child(4){width:19%}
.card tbody th{background:#f3f3f3;padding-top:.6em}.card code{color:#767676;font-size:.8em}
.card tr.found b{color:#00694d}.card tr.not b{color:#a63d00}.card tr.unclear b{color:#7a5c00}
.card tr.for b{color:#555}.card tr.answered b{color:#005a8c}
@media print{.card{max-width:none;font-size:10px}.card tr{break-inside:avoid}}
"""
