"""Masks made by people and networks in turn: proposals, decisions, agreement (Tahir 2021, 3.1.2)."""

from .agreement import agreement, crosstab, dice, kappa
from .log import DECISIONS, Decision, DecisionLog, standing, state
from .loop import (
    ORDERS,
    Proposals,
    SimulatedAnnotator,
    collaborate,
    draw,
    effort,
    favourite,
    needed,
    propose,
    queue,
    review,
    saved,
    train,
)

__all__ = [
    "DECISIONS",
    "ORDERS",
    "Decision",
    "DecisionLog",
    "Proposals",
    "SimulatedAnnotator",
    "agreement",
    "collaborate",
    "crosstab",
    "dice",
    "draw",
    "effort",
    "favourite",
    "kappa",
    "needed",
    "propose",
    "queue",
    "review",
    "saved",
    "standing",
    "state",
    "train",
]
