"""Reinitialisation methods and interventions against the loss of plasticity, for forgetkit."""

from collections.abc import Mapping
from typing import Any

import forgetkit
from forgetkit_plasticity.continual_backprop import ContinualBackprop
from forgetkit_plasticity.dash import Dash
from forgetkit_plasticity.fire import Fire
from forgetkit_plasticity.hare_tortoise import HareTortoise
from forgetkit_plasticity.knowledge_evolution import KnowledgeEvolution
from forgetkit_plasticity.l2_init import L2Init
from forgetkit_plasticity.redo import Redo, RedoWhileTraining
from forgetkit_plasticity.rewind import Rewind
from forgetkit_plasticity.selective_weight import SelectiveWeight
from forgetkit_plasticity.self_normalized_resets import SelfNormalizedResets
from forgetkit_plasticity.soft_rescale import SoftRescale


@forgetkit.hookimpl
def forgetkit_reinit() -> Mapping[str, type[Any]]:
    """Return the methods that reset between two mega-batches."""
    return {
        "dash": Dash,
        "fire": Fire,
        "knowledge-evolution": KnowledgeEvolution,
        "redo": Redo,
        "rewind": Rewind,
    }


@forgetkit.hookimpl
def forgetkit_interventions() -> Mapping[str, type[Any]]:
    """Return the interventions that act during training."""
    return {
        "continual-backprop": ContinualBackprop,
        "hare-tortoise": HareTortoise,
        "l2-init": L2Init,
        "redo": RedoWhileTraining,
        "selective-weight": SelectiveWeight,
        "self-normalized-resets": SelfNormalizedResets,
        "soft-rescale": SoftRescale,
    }
