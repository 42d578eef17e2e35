"""How a model adapts to a few examples: learners of all families, driven by any rule."""

from l2o.learners.adapt import adapt
from l2o.learners.adaptation import Adaptation
from l2o.learners.backbones import MLP, Conv4
from l2o.learners.base import Learner
from l2o.learners.black_box.cnaps import CNAPs
from l2o.learners.black_box.hypernetwork import Hypernetwork
from l2o.learners.black_box.recurrent import RecurrentLearner
from l2o.learners.black_box.snail import SNAIL
from l2o.learners.gradient.cavia import CAVIA, FiLMConv4, FiLMMLP, WithContext
from l2o.learners.gradient.imaml import IMAML
from l2o.learners.gradient.maml import MAML
from l2o.learners.gradient.maml_plus_plus import MAMLPlusPlus, StepRates
from l2o.learners.gradient.meta_curvature import MetaCurvature
from l2o.learners.gradient.meta_lstm import MetaLSTMRule
from l2o.learners.gradient.meta_sgd import MetaSGD, shapes_of
from l2o.learners.in_context.context_weights import ContextAdapter, LoRA, Prefix, SoftPrompt
from l2o.learners.in_context.language_model import LanguageModel
from l2o.learners.in_context.text import InContextLanguageModel, TextLearner
from l2o.learners.in_context.transformer import InContextTransformer
from l2o.learners.memory.dnc import DNC
from l2o.learners.memory.learner import MemoryLearner, OnlineLearner
from l2o.learners.memory.mann import MANN
from l2o.learners.memory.ntm import NTM
from l2o.learners.meta_grad import meta_grad
from l2o.learners.metric.matching import MatchingNetwork
from l2o.learners.metric.prototypical import PrototypicalNetwork
from l2o.learners.metric.relation import RelationEncoder, RelationNetwork
from l2o.learners.metric.ridge import RidgeHead, SVMHead
from l2o.learners.metric.siamese import SiameseNetwork
from l2o.learners.neural_process.conditional import (
    AttentiveNeuralProcess,
    ConditionalNeuralProcess,
    LatentNeuralProcess,
)
from l2o.learners.neural_process.convolutional import ConvolutionalNeuralProcess
from l2o.learners.neural_process.prior_fitted import PriorFittedNetwork
from l2o.learners.neural_process.transformer import TransformerNeuralProcess
from l2o.learners.neural_process.versa import VERSA
from l2o.learners.task import EpisodicTask, ReptileTask

__all__ = [
    "CAVIA",
    "DNC",
    "IMAML",
    "MAML",
    "MANN",
    "MLP",
    "NTM",
    "SNAIL",
    "VERSA",
    "Adaptation",
    "AttentiveNeuralProcess",
    "CNAPs",
    "ConditionalNeuralProcess",
    "ContextAdapter",
    "Conv4",
    "ConvolutionalNeuralProcess",
    "EpisodicTask",
    "FiLMConv4",
    "FiLMMLP",
    "Hypernetwork",
    "InContextLanguageModel",
    "InContextTransformer",
    "LanguageModel",
    "LatentNeuralProcess",
    "Learner",
    "LoRA",
    "MAMLPlusPlus",
    "MatchingNetwork",
    "MemoryLearner",
    "MetaCurvature",
    "MetaLSTMRule",
    "MetaSGD",
    "OnlineLearner",
    "Prefix",
    "PriorFittedNetwork",
    "PrototypicalNetwork",
    "RecurrentLearner",
    "RelationEncoder",
    "RelationNetwork",
    "ReptileTask",
    "RidgeHead",
    "SVMHead",
    "SiameseNetwork",
    "SoftPrompt",
    "StepRates",
    "TextLearner",
    "TransformerNeuralProcess",
    "WithContext",
    "adapt",
    "meta_grad",
    "shapes_of",
]
