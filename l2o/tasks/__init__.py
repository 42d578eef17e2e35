"""What is learned: tasks and families of tasks."""

from l2o.tasks.algorithms import AssociativeRecall, Copy, RepeatCopy
from l2o.tasks.augment import (
    NoisyGradient,
    NoisyGradientFamily,
    Reparametrised,
    ReparametrisedFamily,
    ScaledLoss,
    ScaledLossFamily,
)
from l2o.tasks.autoencoder import Autoencoder, AutoencoderFamily, VariationalAutoencoder
from l2o.tasks.base import Always, Mixture, Task, TaskFamily
from l2o.tasks.conv import ConvClassification, ConvFamily
from l2o.tasks.episodes import Episode, EpisodeFamily, Examples, FewShot
from l2o.tasks.function_classes import (
    Curriculum,
    DecisionTrees,
    FunctionClass,
    LinearFunctions,
    Ramp,
    TwoLayerFunctions,
)
from l2o.tasks.functions import Ackley, ClassicFunction, ClassicFunctions, Rastrigin, Rosenbrock, StyblinskiTang
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.gaussian_process import GaussianProcess
from l2o.tasks.mlp import MLPClassification, MLPFamily
from l2o.tasks.quadratic import Quadratic, Quadratics
from l2o.tasks.rnn import RecurrentFamily, RecurrentLanguageModel
from l2o.tasks.sequences import SequenceFamily, Sequences, SequenceSource, SequenceTask
from l2o.tasks.sinusoid import Sinusoid
from l2o.tasks.stream import LabelShiftedStream, Stream, StreamTask
from l2o.tasks.tabular import Tables
from l2o.tasks.tabular_prior import SyntheticTables
from l2o.tasks.teacher import StudentClassification, StudentFamily, StudentRegression
from l2o.tasks.text_episodes import Format, TextEpisodes
from l2o.tasks.transformer import TransformerFamily, TransformerLanguageModel

__all__ = [
    "Ackley",
    "Always",
    "AssociativeRecall",
    "Autoencoder",
    "AutoencoderFamily",
    "ClassicFunction",
    "ClassicFunctions",
    "ConvClassification",
    "ConvFamily",
    "Copy",
    "Curriculum",
    "DecisionTrees",
    "Episode",
    "EpisodeFamily",
    "Examples",
    "FewShot",
    "Format",
    "FunctionClass",
    "GaussianClasses",
    "GaussianProcess",
    "LabelShiftedStream",
    "LinearFunctions",
    "MLPClassification",
    "MLPFamily",
    "Mixture",
    "NoisyGradient",
    "NoisyGradientFamily",
    "Quadratic",
    "Quadratics",
    "Ramp",
    "Rastrigin",
    "RecurrentFamily",
    "RecurrentLanguageModel",
    "Reparametrised",
    "ReparametrisedFamily",
    "RepeatCopy",
    "Rosenbrock",
    "ScaledLoss",
    "ScaledLossFamily",
    "SequenceFamily",
    "SequenceSource",
    "SequenceTask",
    "Sequences",
    "Sinusoid",
    "Stream",
    "StreamTask",
    "StudentClassification",
    "StudentFamily",
    "StudentRegression",
    "StyblinskiTang",
    "SyntheticTables",
    "Tables",
    "Task",
    "TaskFamily",
    "TextEpisodes",
    "TransformerFamily",
    "TransformerLanguageModel",
    "TwoLayerFunctions",
    "VariationalAutoencoder",
]
