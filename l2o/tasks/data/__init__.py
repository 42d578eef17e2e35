"""Data that tasks are made of: in the package, from a folder, or downloaded."""

from l2o.tasks.data.bundled import breast_cancer, digits, iris, wine
from l2o.tasks.data.dataset import Dataset, Part, loader
from l2o.tasks.data.embeddings import banking77
from l2o.tasks.data.image_folder import image_folder
from l2o.tasks.data.images import fashion_mnist, mnist
from l2o.tasks.data.labelled import LabelledDataset, from_dataset, labelled
from l2o.tasks.data.omniglot import Characters, omniglot, omniglot_characters, omniglot_classes
from l2o.tasks.data.tabular import CC18, bundled_tables, cc18, cc18_tables
from l2o.tasks.data.text import Text, encode, shakespeare, text_file, tiny_shakespeare

__all__ = [
    "CC18",
    "Characters",
    "Dataset",
    "LabelledDataset",
    "Part",
    "Text",
    "banking77",
    "breast_cancer",
    "bundled_tables",
    "cc18",
    "cc18_tables",
    "digits",
    "encode",
    "fashion_mnist",
    "from_dataset",
    "image_folder",
    "iris",
    "labelled",
    "loader",
    "mnist",
    "omniglot",
    "omniglot_characters",
    "omniglot_classes",
    "shakespeare",
    "text_file",
    "tiny_shakespeare",
    "wine",
]
